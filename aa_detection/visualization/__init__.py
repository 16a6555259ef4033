"""Pictures of datasets and detections. Nothing below imports torch."""

from .contact_sheet import write_contact_sheet

__all__ = ["write_contact_sheet"]
