"""Load trained detectors for inference and export."""

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from torch import nn

from ...checkpoints import Checkpoint, build_trained
from .building import build_model


def load_trained(cfg: CfgNode, *, allow_pickle: bool = False) -> tuple[nn.Module, Checkpoint]:
    """See :func:`aa_detection.checkpoints.build_trained`."""
    return build_trained(cfg, build_model, allow_pickle=allow_pickle, paths=PathManager)


def load_model(cfg: CfgNode, *, allow_pickle: bool = False) -> nn.Module:
    """See :meth:`aa_detection.engines.Engine.load_model`."""
    return load_trained(cfg, allow_pickle=allow_pickle)[0]
