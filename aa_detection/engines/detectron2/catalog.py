"""Look up COCO datasets in detectron2's catalog and in this project's."""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...data import CocoDataset, get_coco_dataset


def coco_dataset(name: str) -> CocoDataset | None:
    """Return the dataset from detectron2's catalog, or else from ours; None if it is not COCO's.

    Raises:
        DatasetError: neither catalog has the name.
    """
    if name not in DatasetCatalog:
        return get_coco_dataset(name)
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != "coco":
        return None
    return CocoDataset(name, Path(metadata.json_file), Path(metadata.image_root))
