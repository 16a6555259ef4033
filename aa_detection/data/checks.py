"""Whether a dataset can be trained on and evaluated, found out before anything starts."""

import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .catalog import CocoDataset, DatasetError


@dataclass(frozen=True)
class CocoSummary:
    """What a checked dataset holds. The tuples on categories are in the order of their ids."""

    images: int
    annotations: int
    empty_images: int  # without any annotation
    empty_boxes: int  # of width or height 0: nothing to learn from, to be left out of training
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    category_counts: tuple[int, ...]  # annotations


# What training and COCO evaluation read of each record, by the list that it stands in. The types
# are compared exactly: JSON's true is no id, though Python counts bool among the integers.
_NUMBER = (int, float)
_FIELDS = {
    "images": {"id": (int,), "file_name": (str,), "height": _NUMBER, "width": _NUMBER},
    "categories": {"id": (int,), "name": (str,)},
    "annotations": {
        "id": (int,),
        "image_id": (int,),
        "category_id": (int,),
        "bbox": (list,),
        "area": _NUMBER,
        "iscrowd": (int, bool),
    },
}


def check_coco_dataset(dataset: CocoDataset, *, num_classes: int | None = None) -> CocoSummary:
    """Reads the annotations and lists the image folders; opens no image.

    A box of width or height 0 is counted and not refused: COCO's own train2017 has two.

    Args:
        num_classes: that of the model, which must be the number of categories. None: any.

    Raises:
        DatasetError: the first thing found wrong, with the file and the id of the record.
    """
    path = dataset.annotation_file
    content = read_coco_annotations(path)
    categories = {category["id"]: category["name"] for category in content["categories"]}
    image_ids = {image["id"] for image in content["images"]}
    annotations = content["annotations"]

    _check_image_files(dataset, content["images"])
    if num_classes is not None and num_classes != len(categories):
        raise DatasetError(
            f"{path} declares {len(categories)} categories, but the model is set up for "
            f"{num_classes} classes: set the number of classes to {len(categories)}"
        )

    category_ids = tuple(sorted(categories))
    counts = Counter(annotation["category_id"] for annotation in annotations)
    return CocoSummary(
        images=len(image_ids),
        annotations=len(annotations),
        empty_images=len(image_ids - {annotation["image_id"] for annotation in annotations}),
        empty_boxes=sum(0 in annotation["bbox"][2:] for annotation in annotations),
        category_ids=category_ids,
        category_names=tuple(categories[category_id] for category_id in category_ids),
        category_counts=tuple(counts[category_id] for category_id in category_ids),
    )


def read_coco_annotations(path: Path) -> dict:
    """The content of an annotation file; no image is looked for.

    Raises:
        DatasetError: the first thing found wrong, with the file and the id of the record.
    """
    content = _read(path)
    categories = {category["id"] for category in content["categories"]}
    image_ids = {image["id"] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["category_id"] not in categories:
            raise DatasetError(
                f"{path}: annotation {annotation['id']} has category_id "
                f"{annotation['category_id']}, expected one of {_shortened(sorted(categories))}"
            )
        if annotation["image_id"] not in image_ids:
            raise DatasetError(
                f"{path}: annotation {annotation['id']} has image_id {annotation['image_id']}, "
                f"expected the id of one of the {len(image_ids)} images"
            )
        _check_box(annotation, path)
    return content


def _read(path: Path) -> dict:
    """The content of an annotation file, every record complete and every id used once."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"annotation file {path} does not exist") from None
    except OSError as error:
        raise DatasetError(f"annotation file {path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not JSON: byte {error.start} is not UTF-8") from error
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path} is not in COCO's format: expected an object with the lists "
            f"{', '.join(_FIELDS)}, got a {type(content).__name__}"
        )
    for key, fields in _FIELDS.items():
        if not isinstance(content.get(key), list):
            got = type(content[key]).__name__ if key in content else "nothing"
            raise DatasetError(
                f"{path} is not in COCO's format: expected a list under {key!r}, got {got}"
            )
        _check_records(content[key], key, fields, path)
    return content


def _check_records(records: list, key: str, fields: dict, path: Path) -> None:
    seen = set()
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise DatasetError(
                f"{path}: {key}[{index}] is a {type(record).__name__}, expected an object"
            )
        for field, types in fields.items():
            if type(record.get(field)) not in types:
                got = f"{field!r} is {record[field]!r:.60}" if field in record else f"no {field!r}"
                known_id = f" (id {record['id']!r:.60})" if "id" in record else ""
                raise DatasetError(
                    f"{path}: {key}[{index}]{known_id}: {got}, "
                    f"expected {' or '.join(each.__name__ for each in types)}"
                )
        if record["id"] in seen:
            raise DatasetError(f"{path}: {key} has the id {record['id']} more than once")
        seen.add(record["id"])


def _check_box(annotation: dict, path: Path) -> None:
    box = annotation["bbox"]
    numbers = len(box) == 4 and all(
        type(number) in _NUMBER and math.isfinite(number) for number in box
    )
    if not numbers or box[2] < 0 or box[3] < 0:
        raise DatasetError(
            f"{path}: annotation {annotation['id']} has bbox {box!r:.80}, expected four finite "
            "numbers [x, y, width, height] with width and height at least 0"
        )


def _check_image_files(dataset: CocoDataset, images: list[dict]) -> None:
    if not dataset.image_root.is_dir():
        raise DatasetError(
            f"image folder {dataset.image_root} does not exist "
            f"(images of {dataset.annotation_file})"
        )
    listings: dict[str, set[str]] = {}  # one listing a folder: a stat an image is slow on NFS
    for image in images:
        folder, name = os.path.split(image["file_name"])
        if folder not in listings:
            listings[folder] = _list_files(dataset.image_root / folder)
        if name not in listings[folder]:
            raise DatasetError(
                f"image file {dataset.image_root / image['file_name']} does not exist "
                f"(image {image['id']} of {dataset.annotation_file})"
            )


def _list_files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _shortened(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:10]))
    return shown if len(ids) <= 10 else f"{shown}, … ({len(ids)} in all)"
