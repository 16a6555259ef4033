"""Export backbones to files that run without this project: ONNX and ``torch.export``."""

from .backbone import export_backbone
from .check import DisagreementError
from .formats import FORMATS, check_target

__all__ = ["FORMATS", "DisagreementError", "check_target", "export_backbone"]
