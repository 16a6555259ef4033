"""Boxes with labels on an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Distinct from each other and from most backgrounds; white text is legible on each.
_COLOURS = (
    (214, 39, 40), (31, 119, 180), (35, 139, 60), (148, 70, 189), (204, 85, 0),
    (0, 128, 138), (190, 30, 120), (120, 94, 40), (60, 70, 200), (90, 100, 110),
)  # fmt: skip


def draw_boxes(
    canvas: Image.Image,
    records: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    *,
    scale: float = 1.0,
    corner: tuple[int, int] = (0, 0),
    line: int = 3,
    label_size: int = 15,
) -> None:
    """Draw annotations or detections in COCO's format, each with its class and score.

    Args:
        canvas: RGB, drawn on in place.
        names: of all category ids; a category has the same colour on every canvas.
        scale, corner: scale and position on the canvas of the image that the records refer to.
        line, label_size: in pixels.
    """
    colours = {key: _COLOURS[i % len(_COLOURS)] for i, key in enumerate(sorted(names))}
    draw = ImageDraw.Draw(canvas)
    # large boxes first, so that no box hides inside another's outline
    records = sorted(records, key=lambda record: -record["bbox"][2] * record["bbox"][3])
    boxes: list[Sequence[float]] = []
    for record in records:
        x, y, width, height = (scale * number for number in record["bbox"])
        sides = []
        for edges, first, last in zip(((x, x + width), (y, y + height)), corner, canvas.size):
            sides.append([min(max(0, round(first + edge)), last - 1) for edge in edges])
        boxes.append([sides[0][0], sides[1][0], sides[0][1], sides[1][1]])
        draw.rectangle(boxes[-1], outline=colours[record["category_id"]], width=line)
    # Labels avoid each other, and small objects that they would hide.
    taken = [box for box in boxes if box[3] - box[1] < 3 * label_size]
    for record, box in zip(records, boxes):
        text = names[record["category_id"]]
        if "score" in record:
            text += f" {record['score']:.2f}"
        _draw_label(draw, canvas.size, text, box, colours[record["category_id"]], taken, label_size)


def annotate(
    image: np.ndarray, records: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> np.ndarray:
    """Return a copy of an image with its detections drawn, in lines that suit its size.

    Args:
        image: ``(H, W, 3)`` uint8, BGR.
        records, names: as for :func:`draw_boxes`.
    """
    picture = Image.fromarray(image[:, :, ::-1])
    side = min(picture.size)
    line, label_size = max(2, side // 240), max(12, side // 36)
    draw_boxes(picture, records, names, line=line, label_size=label_size)
    return np.asarray(picture)[:, :, ::-1]


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's built-in font, so that no system font is needed."""
    return ImageFont.load_default(size)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    canvas_size: tuple[int, int],
    text: str,
    box: Sequence[float],
    colour: tuple[int, int, int],
    taken: list[Sequence[float]],
    size: int,
) -> None:
    """Write `text` at the corner of `box` where it covers the least of `taken`."""
    width, height = draw.textlength(text, font(size)) + 6, size + 4
    left, top, right, bottom = box
    places = []
    for x in (left, right - width + 1):
        for y in (top - height, bottom, top, bottom - height):
            x_inside = min(max(x, 0), max(canvas_size[0] - width, 0))
            y_inside = min(max(y, 0), max(canvas_size[1] - height, 0))
            places.append((x_inside, y_inside, x_inside + width, y_inside + height))
    place = min(places, key=lambda place: sum(_overlap(place, other) for other in taken))
    taken.append(place)
    draw.rectangle(place, fill=colour)
    middle = (place[0] + 3, (place[1] + place[3]) / 2)
    draw.text(middle, text, (255, 255, 255), font(size), anchor="lm")


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)
