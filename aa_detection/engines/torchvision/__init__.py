"""The embedded engine: detectron2's YAML on torchvision's RetinaNet and Lightning's Trainer."""

from .config import load_config
from .model import build_model
from .predict import load_detector
from .train import run
from .weights import load_model

__all__ = ["build_model", "load_config", "load_detector", "load_model", "run"]
