"""Dataset names, which stand for an annotation file and an image folder.

Names that users register live as long as the process. The built-in names follow detectron2's folder
layout and are resolved on use, so that `$DETECTRON2_DATASETS` may still change after the import.
"""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from ..one_line import on_one_line

StrPath = str | os.PathLike[str]


class DatasetError(ValueError):
    """A dataset that cannot be used as it is. One line: what, where, and what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(on_one_line(message))  # a file's name may hold line ends


@dataclass(frozen=True)
class CocoDataset:
    """A detection dataset in COCO's format; `file_name`s are relative to `image_root`."""

    name: str
    annotation_file: Path
    image_root: Path


# name: (annotation file, image folder), relative to the dataset root
_BUILTIN = {
    "coco_2014_train": ("coco/annotations/instances_train2014.json", "coco/train2014"),
    "coco_2014_val": ("coco/annotations/instances_val2014.json", "coco/val2014"),
    "coco_2014_minival": ("coco/annotations/instances_minival2014.json", "coco/val2014"),
    "coco_2014_valminusminival": (
        "coco/annotations/instances_valminusminival2014.json",
        "coco/val2014",
    ),
    "coco_2017_train": ("coco/annotations/instances_train2017.json", "coco/train2017"),
    "coco_2017_val": ("coco/annotations/instances_val2017.json", "coco/val2017"),
    "aa_sample_train": ("aa_sample/annotations/train.json", "aa_sample/train"),
    "aa_sample_val": ("aa_sample/annotations/val.json", "aa_sample/val"),
    "aa_context_train": ("aa_context/annotations/train.json", "aa_context/train"),
    "aa_context_val": ("aa_context/annotations/val.json", "aa_context/val"),
}

_registered: dict[str, CocoDataset] = {}


def dataset_root() -> Path:
    """Return the root of the built-in datasets: `$DETECTRON2_DATASETS`, by default `datasets`."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def register_coco_dataset(name: str, annotation_file: StrPath, image_root: StrPath) -> CocoDataset:
    """Register `name` for an annotation file and an image folder.

    Nothing is read; :func:`aa_detection.data.check_dataset` does that. Registering the same paths
    again changes nothing.

    Raises:
        DatasetError: the name is already registered for other paths.
    """
    dataset = CocoDataset(name, Path(annotation_file).expanduser(), Path(image_root).expanduser())
    known = _find(name)
    if known is not None:
        if _absolute_paths(known) != _absolute_paths(dataset):
            raise DatasetError(
                f"dataset {name!r} is already {known.annotation_file} with images in "
                f"{known.image_root}: register {dataset.annotation_file} under another name"
            )
        return known
    _registered[name] = dataset
    return dataset


def get_coco_dataset(name: str) -> CocoDataset:
    """Return the dataset of that name, registered or built in. Its files need not exist.

    Raises:
        DatasetError: no dataset has that name; the message suggests the most similar one.
    """
    dataset = _find(name)
    if dataset is None:
        known = sorted({*_BUILTIN, *_registered})
        nearest = difflib.get_close_matches(name, known, n=1)
        suggestion = f", did you mean {nearest[0]!r}?" if nearest else ","
        raise DatasetError(f"unknown dataset {name!r}{suggestion} known: {', '.join(known)}")
    return dataset


def _find(name: str) -> CocoDataset | None:
    if name in _BUILTIN:
        annotation_file, image_root = _BUILTIN[name]
        return CocoDataset(name, dataset_root() / annotation_file, dataset_root() / image_root)
    return _registered.get(name)


def _absolute_paths(dataset: CocoDataset) -> tuple[str, str]:
    return os.path.abspath(dataset.annotation_file), os.path.abspath(dataset.image_root)
