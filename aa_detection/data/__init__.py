"""Datasets in COCO's format: names, checks, and a sample dataset drawn from a seed.

The sample dataset is in :mod:`aa_detection.data.sample`, which is a command as well and therefore
is not imported here. Nothing below imports torch.
"""

from .catalog import (
    CocoDataset,
    DatasetError,
    dataset_root,
    get_coco_dataset,
    register_coco_dataset,
)
from .checks import CocoSummary, check_coco_dataset, read_coco_annotations

__all__ = [
    "CocoDataset",
    "CocoSummary",
    "DatasetError",
    "check_coco_dataset",
    "dataset_root",
    "get_coco_dataset",
    "read_coco_annotations",
    "register_coco_dataset",
]
