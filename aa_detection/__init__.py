"""Attention-augmented ResNet backbones for object detection.

Implements *Attention Augmented Convolutional Networks* (Bello et al., ICCV 2019) and *An Attention
Module for Convolutional Neural Networks* (arXiv 2108.08205) as a detectron2 plug-in and as layers
for any PyTorch project. Importing the package needs only torch.
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

# imported on first use, so that a command line can print its help without loading torch
_PLACES = {
    "AAConv2d": "layers",
    "AWConv2d": "layers",
    "AttentionSpec": "models",
    "Detector": "engines.detector",
    "augment": "models",
    "relative_attention_2d": "attention",
}


if not TYPE_CHECKING:  # a type checker would accept any name

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

    Call it once, before merging a file or building a model. ``MODEL.BACKBONE.NAME`` may then be
    ``build_aa_resnet_backbone``, ``build_aa_resnet_fpn_backbone`` or
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
