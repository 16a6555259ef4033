"""Pictures and videos in, detections out."""

from .detector import Detector, look

__all__ = ["Detector", "look"]
