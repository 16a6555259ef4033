"""Result files: COCO's list of detections, checked and as arrays."""

import contextlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..data import DatasetError

Detections = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Results:
    """The N detections of a run, in the order of its file."""

    images: np.ndarray  # (N,) places in the sorted ids of the annotations' images
    classes: np.ndarray  # (N,) places in the sorted ids of the annotations' categories
    boxes: np.ndarray  # (N, 4): x, y, width, height in pixels
    scores: np.ndarray  # (N,)


def index_annotations(content: dict[str, Any]) -> COCO:
    """pycocotools' view of an annotation file's content."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def read_results(coco: COCO, detections: str | os.PathLike[str] | Detections) -> Results:
    """Detections of a JSON file or a list, for the images and categories of `coco`.

    Args:
        detections: each with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and
            ``score``; there may be none.

    Raises:
        DatasetError: the first detection that is not such, with the file and its place in the list.
    """
    where = "the detections"
    if isinstance(detections, (str, os.PathLike)):
        where, detections = os.fspath(detections), _read_json(detections)
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
            # an infinity or NaN anywhere makes the sum so; a string makes it a TypeError
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
    return Results(
        images=image_and_class[:, 0],
        classes=image_and_class[:, 1],
        boxes=np.array(boxes, dtype=float).reshape(-1, 4),
        scores=np.array(scores, dtype=float),
    )


def _problem(detection: Any, images: Mapping[int, int], classes: Mapping[int, int]) -> str:
    """What is wrong with a detection that could not be read."""
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
        with open(path, "rb") as file:
            return json.load(file)
    except OSError as error:
        raise DatasetError(f"result file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {' '.join(str(error).split())}") from None
