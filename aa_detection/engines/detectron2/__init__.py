"""The main engine: detectron2's trainer and evaluators with attention-augmented backbones."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it scripts functions on import
    import detectron2.modeling  # noqa: F401

from .backbone import (
    build_aa_resnet_backbone,
    build_aa_resnet_fpn_backbone,
    build_retinanet_aa_resnet_fpn_backbone,
)
from .building import build_model
from .checkpoint import AACheckpointer
from .config import add_aa_config, load_config
from .predict import load_detector
from .train import run
from .trainer import AATrainer
from .weights import load_model

__all__ = [
    "AACheckpointer",
    "AATrainer",
    "add_aa_config",
    "build_aa_resnet_backbone",
    "build_aa_resnet_fpn_backbone",
    "build_model",
    "build_retinanet_aa_resnet_fpn_backbone",
    "load_config",
    "load_detector",
    "load_model",
    "run",
]
