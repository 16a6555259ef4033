"""Datasets in COCO's format: names, checks, and a sample dataset generated from a seed.

The sample dataset is in :mod:`aa_detection.data.synthetic.sample`. Nothing here imports torch.
"""

from .annotations import complete_annotations, index_annotations, open_coco
from .catalog import (
    CocoDataset,
    DatasetError,
    dataset_root,
    get_coco_dataset,
    register_coco_dataset,
)
from .checks import check_dataset, check_datasets, read_coco_annotations
from .images import ImageError, read_image, upright_rgb
from .report import CocoSummary, DatasetReport, Finding, require_usable

__all__ = [
    "CocoDataset",
    "CocoSummary",
    "DatasetError",
    "DatasetReport",
    "Finding",
    "ImageError",
    "check_dataset",
    "check_datasets",
    "complete_annotations",
    "dataset_root",
    "get_coco_dataset",
    "index_annotations",
    "open_coco",
    "read_coco_annotations",
    "read_image",
    "register_coco_dataset",
    "require_usable",
    "upright_rgb",
]
