"""COCO metrics of result files."""

from .coco_ap import coco_ap

__all__ = ["coco_ap"]
