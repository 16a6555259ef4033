"""Load trained detectors for inference and export."""

from fvcore.common.config import CfgNode
from torchvision.models.detection import RetinaNet

from ...checkpoints import Checkpoint, build_trained
from .model import build_model


def load_trained(cfg: CfgNode, *, allow_pickle: bool = False) -> tuple[RetinaNet, Checkpoint]:
    """See :func:`aa_detection.checkpoints.build_trained`."""
    return build_trained(cfg, build_model, allow_pickle=allow_pickle)


def load_model(cfg: CfgNode, *, allow_pickle: bool = False) -> RetinaNet:
    """See :meth:`aa_detection.engines.Engine.load_model`."""
    return load_trained(cfg, allow_pickle=allow_pickle)[0]
