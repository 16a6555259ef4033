"""torch's and torchvision's implementations of the norms in detectron2's configs."""

from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def norm_layer(name: str, device: str) -> Callable[[int], nn.Module] | None:
    """Return a constructor of norms by number of channels; None for no norm."""
    return {
        "": None,
        "FrozenBN": FrozenBatchNorm2d,
        "BN": nn.BatchNorm2d,
        # built directly because converting later would drop attention's hooks; SyncBN has no CPU
        # implementation
        "SyncBN": nn.SyncBatchNorm if device.startswith("cuda") else nn.BatchNorm2d,
        "GN": partial(nn.GroupNorm, 32),
    }[name]
