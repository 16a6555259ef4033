"""Attention-augmented ResNet backbones for object detection.

*Attention Augmented Convolutional Networks* (Bello et al., ICCV 2019) and *An Attention Module for
Convolutional Neural Networks* (arXiv 2108.08205), as a plug-in of detectron2 and as layers for any
PyTorch project. Importing this needs torch alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from .attention import relative_attention_2d
    from .engines.detector import Detector
    from .layers import AAConv2d, AWConv2d
    from .models import AttentionSpec, augment

__version__ = "0.1.0"
__all__ = [
    "AAConv2d",
    "AWConv2d",
    "AttentionSpec",
    "Detector",
    "add_aa_config",
    "augment",
    "relative_attention_2d",
]

# found on first use: a command line that prints its help need not wait for torch
_PLACES = {
    "AAConv2d": "layers",
    "AWConv2d": "layers",
    "AttentionSpec": "models",
    "Detector": "engines.detector",
    "augment": "models",
    "relative_attention_2d": "attention",
}


if not TYPE_CHECKING:  # to a type checker any name would be there

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})


def add_aa_config(cfg: CfgNode) -> None:
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
