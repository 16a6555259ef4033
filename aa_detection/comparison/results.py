"""Read and check result files, COCO's lists of detections, into arrays."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..data import DatasetError
from ..data.annotations import load_json

CocoResults = Sequence[Mapping[str, Any]]
_DATASET = ("images", "categories", "annotations")


@dataclass(frozen=True)
class DetectionTable:
    """The N detections of a run, in file order."""

    images: np.ndarray  # (N,) indices into the sorted ids of the annotations' images
    classes: np.ndarray  # (N,) indices into the sorted ids of the annotations' categories
    boxes: np.ndarray  # (N, 4): x, y, width, height in pixels
    scores: np.ndarray  # (N,)


def read_results(coco: COCO, detections: str | os.PathLike[str] | CocoResults) -> DetectionTable:
    """Read detections from a JSON file or a list, for the images and categories of `coco`.

    Args:
        detections: each with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and
            ``score``; may be empty. A file may also be a dataset whose annotations are the
            detections, as ``tools/predict.py`` writes it; its images are matched by file name.

    Raises:
        DatasetError: names the first invalid detection by file and position in the list; or a
            dataset has other images or categories.
    """
    where = "the detections"
    if isinstance(detections, (str, os.PathLike)):
        where, detections = os.fspath(detections), _read_json(detections)
        if isinstance(detections, Mapping) and {*_DATASET} <= {*detections}:
            detections = _renumber(coco, detections, where)
    if not isinstance(detections, Sequence) or isinstance(detections, str):
        raise DatasetError(
            f"{where}: expected a list of detections, got a {type(detections).__name__}"
        )
    images = {image_id: place for place, image_id in enumerate(sorted(coco.imgs))}
    classes = {category_id: place for place, category_id in enumerate(sorted(coco.cats))}
    places, boxes, scores = [], [], []
    for index, detection in enumerate(detections):
        try:
            image, category = images[detection["image_id"]], classes[detection["category_id"]]
            x, y, width, height = box = detection["bbox"]
            score = detection["score"]
            # infinity or NaN in any number propagates to the sum; a string raises TypeError
            usable = width >= 0 and height >= 0 and math.isfinite(x + y + width + height + score)
        except (KeyError, TypeError, ValueError):
            usable = False
        if not usable:
            problem = _problem(detection, images, classes)
            raise DatasetError(f"{where}: detection [{index}] {problem}")
        places.append((image, category))
        boxes.append(box)
        scores.append(score)
    image_and_class = np.array(places, dtype=np.int32).reshape(-1, 2)
    return DetectionTable(
        images=image_and_class[:, 0],
        classes=image_and_class[:, 1],
        boxes=np.array(boxes, dtype=float).reshape(-1, 4),
        scores=np.array(scores, dtype=float),
    )


def _renumber(coco: COCO, dataset: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return a dataset's detections with `coco`'s ids for images of the same name."""
    try:
        images, categories, detections = (dataset[key] for key in _DATASET)
        names = {image["id"]: PurePath(image["file_name"]).parts for image in images}
        theirs = {category["id"]: category["name"] for category in categories}
        image_ids = [detection["image_id"] for detection in detections]
        used = {image_id: names[image_id] for image_id in image_ids}
    except (KeyError, TypeError):
        raise DatasetError(
            f"{where}: expected a list of detections, or a dataset as tools/predict.py writes it"
        ) from None
    ours = {category_id: category["name"] for category_id, category in coco.cats.items()}
    if theirs != ours:
        raise DatasetError(
            f"{where}: its categories are not the annotations'; expected those of "
            "tools/predict.py --class-names with the annotation file"
        )
    known = {image["file_name"]: image_id for image_id, image in coco.imgs.items()}
    found = {}
    for image_id, parts in used.items():
        # the longest suffix of the path that the annotations contain
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((end for end in ends if end in known), None)
        if name is None:
            raise DatasetError(f"{where}: the annotations have no image {'/'.join(parts)}")
        found[image_id] = known[name]
    if len({*found.values()}) < len(found):
        raise DatasetError(f"{where}: several of its images are one image of the annotations")
    return [
        {**detection, "image_id": found[image_id]}
        for detection, image_id in zip(detections, image_ids)
    ]


def _problem(detection: Any, images: Mapping[int, int], classes: Mapping[int, int]) -> str:
    """Describe what is wrong with a detection that could not be read."""
    if not isinstance(detection, Mapping):
        return f"is a {type(detection).__name__}, expected an object"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in detection:
            return f"has no {key!r}: not a file of box detections in COCO's result format"
    for key, known in (("image_id", images), ("category_id", classes)):
        value = detection[key]
        if not isinstance(value, int) or value not in known:
            return (
                f"has {key} {value!r:.60}, which the annotations do not have: "
                "are they those that this run was evaluated on?"
            )
    return (
        f"has bbox {detection['bbox']!r:.80} and score {detection['score']!r:.40}, expected four "
        "finite numbers x, y, width, height with no negative size, and a finite number"
    )


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        return load_json(path)
    except OSError as error:
        raise DatasetError(f"result file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {' '.join(str(error).split())}") from None
