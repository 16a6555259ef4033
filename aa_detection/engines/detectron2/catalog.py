"""The COCO datasets that detectron2's catalog and this project's have."""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...data import CocoDataset, get_coco_dataset


def coco_dataset(name: str) -> CocoDataset | None:
    """The dataset as detectron2's catalog has it, or else ours; None if it is not COCO's.

    Raises:
        DatasetError: neither has one of that name.
    """
    if name not in DatasetCatalog:
        return get_coco_dataset(name)
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != "coco":
        return None
    return CocoDataset(name, Path(metadata.json_file), Path(metadata.image_root))
