"""A trained detector, for whoever runs or exports it."""

from fvcore.common.config import CfgNode
from torchvision.models.detection import RetinaNet

from ...checkpoints import build_trained
from .model import build_model


def load_model(cfg: CfgNode, *, allow_pickle: bool = False) -> RetinaNet:
    """The config's trained detector; see :func:`aa_detection.checkpoints.build_trained`."""
    return build_trained(cfg, build_model, allow_pickle=allow_pickle)
