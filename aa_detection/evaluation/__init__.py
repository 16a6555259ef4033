"""Detections, COCO metrics of result files, and whether one detector beats another."""

from .coco_ap import coco_ap
from .comparison import Comparison, Curve, Difference, compare, precision_recall
from .detections import Detections, Detector
from .published import PUBLISHED, Published

__all__ = [
    "PUBLISHED",
    "Comparison",
    "Curve",
    "Detections",
    "Detector",
    "Difference",
    "Published",
    "coco_ap",
    "compare",
    "precision_recall",
]
