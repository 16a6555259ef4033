"""Attention-augmented ResNet backbones for object detection.

*Attention Augmented Convolutional Networks* (Bello et al., ICCV 2019) and *An Attention Module for
Convolutional Neural Networks* (arXiv 2108.08205), as a plug-in of detectron2 and as layers for any
PyTorch project. Importing this needs torch alone.
"""

from .attention import relative_attention_2d
from .layers import AAConv2d, AWConv2d
from .models import AttentionSpec, augment

__version__ = "0.1.0"
__all__ = [
    "AAConv2d",
    "AWConv2d",
    "AttentionSpec",
    "add_aa_config",
    "augment",
    "relative_attention_2d",
]


def add_aa_config(cfg) -> None:
    """Add this project's keys to a detectron2 config and its backbones to the registry.

    The one call a project must make, before it merges a file or builds a model. After it
    ``MODEL.BACKBONE.NAME`` may be ``build_aa_resnet_backbone``, ``build_aa_resnet_fpn_backbone`` or
    ``build_retinanet_aa_resnet_fpn_backbone``; with the default ``MODEL.ATTENTION`` these build
    detectron2's own networks.

    Args:
        cfg: a ``detectron2.config.CfgNode``, changed in place.

    Raises:
        ImportError: detectron2 is not installed.
    """
    try:
        from .engines.detectron2 import add_aa_config as add
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("detectron2"):
            raise
        raise ImportError(
            "add_aa_config needs detectron2, which is not installed; see "
            "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
        ) from None
    add(cfg)
