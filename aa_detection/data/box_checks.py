"""Checks of the boxes and areas of annotations."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from .coco_file import NUMBER
from .report import DatasetReport, Record

_CORNERS_FROM = 10  # boxes: fewer may all look like corners by chance


def check_boxes(
    report: DatasetReport, annotations: list[Record], sizes: Mapping[int, tuple[float, float]]
) -> None:
    """Check that boxes are [x, y, width, height] in pixels of their image.

    Args:
        sizes: width and height by image id; NaN if unusable.
    """
    path = report.dataset.annotation_file
    wrong = _not_boxes([annotation["bbox"] for annotation in annotations])
    if wrong:
        first = annotations[wrong[0]]
        report.add(
            "annotations: not a box",
            f"{path}: annotation {first['id']} has bbox {first['bbox']!r:.80}, expected "
            "four finite numbers [x, y, width, height] with width and height at least 0",
            [annotations[i]["id"] for i in wrong],
        )
        bad = set(wrong)
        annotations = [each for i, each in enumerate(annotations) if i not in bad]
    if not annotations:
        return
    boxes = _numbers([annotation["bbox"] for annotation in annotations], 4)
    canvas = _numbers([sizes[annotation["image_id"]] for annotation in annotations], 2)
    start, extent = boxes[:, :2], boxes[:, 2:]
    with np.errstate(over="ignore"):
        end = start + extent

    def box(i: int) -> str:
        width, height = canvas[i]
        return f"bbox {annotations[i]['bbox']} of a {width:g}x{height:g} image"

    if 0 < boxes.max() <= 1 and (canvas > 1).any():
        report.add(
            "annotations: boxes in fractions",
            f"{path}: every number of every bbox is at most 1, as in annotation "
            f"{annotations[0]['id']}: {annotations[0]['bbox']}; expected pixels, not fractions "
            "of the image",
        )
        return
    over = np.maximum(-start, end - canvas).max(axis=1)  # pixels; NaN if the size is unusable
    corners = (extent > start).all() and (extent <= canvas + 1).all()
    if corners and len(boxes) >= _CORNERS_FROM and (over > 1).any():
        i = int(np.argmax(over > 1))
        report.add(
            "annotations: boxes as corners",
            f"{path}: every bbox looks like [x1, y1, x2, y2], as in annotation "
            f"{annotations[i]['id']}: {box(i)}; expected [x, y, width, height]",
        )
        return
    empty = (extent == 0).any(axis=1)
    report.note(
        "annotations: box of size zero",
        annotations,
        empty,
        f"has bbox {annotations[int(np.argmax(empty))]['bbox']}: left out of training",
    )
    outside = ((end <= 0) | (start >= canvas)).any(axis=1) & ~empty
    i = int(np.argmax(outside))
    report.note(
        "annotations: box outside its image",
        annotations,
        outside,
        f"has {box(i)}: it lies outside",
        warning=False,
    )
    over = np.where(outside | np.isnan(over), 0, over)
    report.note(
        "annotations: box over the border",
        annotations,
        over > 0,
        f"has {box(int(np.argmax(over > 0)))}: clipped; the farthest of these reaches "
        f"{over.max():.3g} pixels over the border",
    )


def check_areas(report: DatasetReport, annotations: list[Record]) -> None:
    """Check that areas are finite numbers; a missing area is computed from the box."""
    areas = [annotation.get("area") or 0 for annotation in annotations]
    try:
        numbers = np.array(areas, np.float64)
    except OverflowError:  # an integer beyond the range of floats
        numbers = np.array([area if is_finite(area) else math.inf for area in areas])
    wrong = ~(np.isfinite(numbers) & (numbers >= 0))
    report.note(
        "annotations: not an area",
        annotations,
        wrong,
        f"has area {areas[int(np.argmax(wrong))] if areas else 0!r:.30}, expected a finite "
        "number of at least 0",
        warning=False,
    )


def is_finite(number: float) -> bool:
    """Return whether `number` is finite; False for an integer beyond the range of floats."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _not_boxes(boxes: list[list[Any]]) -> list[int]:
    """Return positions of boxes that are not four finite numbers with non-negative sizes."""
    quick = set(map(len, boxes)) <= {4} and set(map(type, chain.from_iterable(boxes))) <= NUMBER
    if quick:
        try:
            numbers = _numbers(boxes, 4)
        except OverflowError:  # an integer beyond the range of floats
            quick = False
    if quick:
        sound = np.isfinite(numbers).all(axis=1) & (numbers[:, 2:] >= 0).all(axis=1)
        return np.flatnonzero(~sound).tolist()
    return [
        i
        for i, box in enumerate(boxes)
        if len(box) != 4
        or not all(type(number) in NUMBER and is_finite(number) for number in box)
        or min(box[2:]) < 0
    ]


def _numbers(rows: Sequence[Sequence[float]], width: int) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * width).reshape(-1, width)
