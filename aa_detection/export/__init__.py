"""Export detectors and backbones to files that run without this project."""

from .backbone import export_backbone
from .check import DisagreementError
from .detector import check_detector, export_detector
from .formats import FORMATS, check_target

__all__ = [
    "FORMATS",
    "DisagreementError",
    "check_detector",
    "check_target",
    "export_backbone",
    "export_detector",
]
