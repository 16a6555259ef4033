"""Pictures and videos in, detections out."""

from .detector import BaseDetector, look
from .found import PictureDetections

__all__ = ["BaseDetector", "PictureDetections", "look"]
