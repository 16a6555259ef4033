"""A backbone as one graph of plain operators, for any batch and image size."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import AAConv2d, AWConv2d


class Features(nn.Module):
    """A backbone as it is traced: a normalised, zero-padded batch to its maps by name.

    Args:
        backbone: of either engine; it is copied.
        attention: backend of the attention operator in the graph.
    """

    def __init__(self, backbone: nn.Module, attention: str) -> None:
        super().__init__()
        # the padding mask hangs on hooks, which a copy keeps
        self.backbone = copy.deepcopy(backbone).eval()
        for module in self.backbone.modules():
            if isinstance(module, AAConv2d):
                module.backend = attention
            elif isinstance(module, AWConv2d):
                module.grouped = False

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = dict(self.backbone(images))
        layer: Any
        for layer in self.backbone.modules():
            # what the hooks told the layers is a value of this pass, not state of the graph
            if getattr(layer, "valid_size", None) is not None:
                layer.valid_size = None
        return features


@dataclass(frozen=True)
class Geometry:
    """What sizes of batches a backbone takes, and of maps it makes.

    Args:
        size_divisibility: rows and columns of a batch are multiples of it.
        smallest_side: and at least this: two pixels on the coarsest map, that of pooled attention
            included, because ``torch.export`` takes a size of one for a constant.
        strides: pixels of the image under a pixel of each map, by the map's name.
    """

    size_divisibility: int
    smallest_side: int
    strides: dict[str, int]


@torch.no_grad()
def geometry(backbone: nn.Module) -> Geometry:
    """Found by running the backbone on one empty image."""
    side = 256  # a multiple of every stride in use
    pooled: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, x, out: pooled.append(2 * side // out.shape[-1]))
        for layer in backbone.modules()
        if isinstance(layer, AAConv2d) and layer.pool
    ]
    features = backbone(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    strides = {name: side // feature.shape[-1] for name, feature in features.items()}
    step = getattr(backbone, "size_divisibility", 0) or 32  # torchvision's does not say
    coarsest = max([*strides.values(), *pooled])
    return Geometry(step, (coarsest // step + 1) * step, strides)


@torch.no_grad()
def trace(backbone: nn.Module, attention: str, geometry: Geometry) -> torch.export.ExportedProgram:
    """The graph of :class:`Features` with dynamic batch, rows and columns."""
    step, smallest = geometry.size_divisibility, geometry.smallest_side
    sides = {
        axis: step * torch.export.Dim(name, min=smallest // step)
        for axis, name in ((2, "height"), (3, "width"))
    }
    return torch.export.export(
        Features(backbone, attention),
        # sizes of which nothing is 1, and nothing equal by chance
        (torch.zeros(2, 3, smallest + step, smallest + 3 * step),),
        dynamic_shapes={"images": {0: torch.export.Dim("batch"), **sides}},
        strict=False,
    )
