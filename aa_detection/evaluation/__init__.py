"""Detections and their COCO metrics."""

from .coco_ap import coco_ap
from .detections import Detections

__all__ = ["Detections", "coco_ap"]
