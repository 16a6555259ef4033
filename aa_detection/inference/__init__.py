"""Run detectors on images and videos."""

from .detector import BaseDetector, look
from .found import PictureDetections

__all__ = ["BaseDetector", "PictureDetections", "look"]
