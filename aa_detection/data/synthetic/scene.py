"""Images of the sample dataset: overlapping shapes on a textured background.

A class has a silhouette and, like most things in the world, a usual colour. Sizes, rotations and
backgrounds have the same distribution for all classes.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_IMAGE_SIDE = (144, 208)  # pixels, inclusive
_OBJECTS = (1, 6)  # in a non-empty image, inclusive; crowding may leave some out
_HUE_SPREAD = 14  # degrees, the standard deviation around a class's usual hue
# Share of the shapes, then minimum and maximum longer side in pixels. Each of COCO's three area
# ranges (up to 32^2, up to 96^2, above) needs enough objects to be measured.
_SIZES = ((0.35, 14, 38), (0.43, 38, 100), (0.22, 124, 141))
_MIN_VISIBLE = 0.7  # share of an object's pixels that must stay visible
_MIN_CONTRAST = 90  # Euclidean distance of two RGB colours, 0..255 per channel
_PLACES_TO_TRY = 5  # before an object is left out
_SUBPIXELS = 4  # per side, to antialias the edges


class VisibleObject(NamedTuple):
    """An object as it appears in the image, partly covered by objects in front of it."""

    shape: str  # a key of SHAPES
    pixels: NDArray[np.bool_]  # (H, W), True where it is visible


def draw_scene(
    rng: np.random.Generator, *, empty: bool = False
) -> tuple[NDArray[np.uint8], list[VisibleObject]]:
    """Draw an image ``(H, W, 3)``, RGB, and its objects, back to front.

    Every object lies inside the image, most of it is visible, and the visible part has no holes, so
    that polygons describe it exactly. `empty` makes an image without objects.
    """
    height, width = (int(side) for side in rng.integers(*_IMAGE_SIDE, size=2, endpoint=True))
    image, background = _background(rng, height, width)
    objects: list[_Object] = []
    wanted = 0 if empty else int(rng.integers(*_OBJECTS, endpoint=True))
    # large objects in the back, else few of them would stay large
    for size in sorted((_size(rng) for _ in range(wanted)), reverse=True):
        for _ in range(_PLACES_TO_TRY):
            shape = str(rng.choice(list(SHAPES)))
            coverage = place(silhouette(rng, shape, size), rng, height, width)
            pixels = coverage >= 0.5
            behind = [other._replace(visible=other.visible & ~pixels) for other in objects]
            if all(_shows_enough(other) for other in behind):
                break
        else:
            continue
        around = cv2.dilate(pixels.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        neighbours = [other.colour for other in behind if (other.visible & around).any()]
        colour = _contrasting_colour(rng, shape, [*background, *neighbours])
        image += coverage[..., None] * (_shading(rng, height, width) + colour - image)
        objects = [*behind, _Object(shape, colour, int(pixels.sum()), pixels)]
    image += rng.normal(0, rng.uniform(0.5, 4), (height, width, 1))  # sensor noise
    return (
        np.clip(np.rint(image), 0, 255).astype(np.uint8),
        [VisibleObject(each.shape, each.visible) for each in objects],
    )


def outline(pixels: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return polygons ``(N, 2)`` of x, y along the pixels' edges, one per connected part.

    Rasterised, they give `pixels` again with holes filled. Diagonal neighbours are connected.
    """
    # Each pixel becomes 2 × 2, so that a contour through the outer pixels tells on which side of
    # its pixel it runs: column x of the doubled image is the left or the right half of pixel x / 2.
    doubled = np.repeat(np.repeat(pixels.astype(np.uint8), 2, 0), 2, 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [_corners((contour[:, 0].astype(np.int64) + 1) // 2) for contour in contours]


def _corners(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop repeated points, and points between two others on a line."""
    points = points[(points != np.roll(points, 1, 0)).any(1)]
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _enclosed_area(polygon: NDArray[np.int64]) -> float:
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


class _Object(NamedTuple):
    shape: str
    colour: NDArray[np.float64]  # (3,)
    area: int  # pixels, including covered ones
    visible: NDArray[np.bool_]  # (H, W)


def _shows_enough(each: _Object) -> bool:
    visible = each.visible.sum()
    if visible < _MIN_VISIBLE * each.area:
        return False
    return sum(map(_enclosed_area, outline(each.visible))) == visible  # no holes


def _arc(start: float, stop: float, points: int) -> NDArray[np.float64]:
    """Return ``(points, 2)`` on the unit circle, from one angle to another, in radians."""
    angle = np.linspace(start, stop, points)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _crescent() -> NDArray[np.float64]:
    # the unit disc minus a smaller one, whose centre is shifted to the right
    offset, radius = 0.55, 0.75
    tip_x = (1 + offset**2 - radius**2) / (2 * offset)
    tip_y = np.sqrt(1 - tip_x**2)
    outer, inner = np.arctan2(tip_y, tip_x), np.arctan2(tip_y, tip_x - offset)
    bite = radius * _arc(2 * np.pi - inner, inner, 48) + (offset, 0)
    return np.concatenate([_arc(outer, 2 * np.pi - outer, 64), bite])


# name: outline inside the unit circle, (points, 2)
SHAPES = {
    "circle": _arc(0, 2 * np.pi, 97)[:-1],
    "triangle": _arc(0, 2 * np.pi, 4)[:-1],
    "square": _arc(0, 2 * np.pi, 5)[:-1],
    "star": _arc(0, 2 * np.pi, 11)[:-1] * np.tile([1, 0.48], 5)[:, None],
    "crescent": _crescent(),
}


def _size(rng: np.random.Generator) -> float:
    _, smallest, largest = _SIZES[rng.choice(len(_SIZES), p=[share for share, *_ in _SIZES])]
    return rng.uniform(smallest, largest)


def silhouette(rng: np.random.Generator, shape: str, size: float) -> NDArray[np.float64]:
    """Return a shape's outline, ``(points, 2)``, rotated, its box's longer side `size` pixels."""
    stretch = np.diag([1, rng.uniform(0.8, 1)])
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = SHAPES[shape] @ stretch @ rotation
    return points * size / np.ptp(points, axis=0).max()


def place(
    points: NDArray[np.float64], rng: np.random.Generator, height: int, width: int
) -> NDArray[np.float64]:
    """Return the share of each pixel, ``(H, W)``, that an outline at a random place covers."""
    points = points - points.min(0) + 1
    box_width, box_height = (int(side) for side in np.ceil(points.max(0)) + 1)
    fine = np.zeros((box_height * _SUBPIXELS, box_width * _SUBPIXELS), np.float32)
    cv2.fillPoly(fine, [np.rint(points * _SUBPIXELS).astype(np.int32)], 1)
    coverage = np.zeros((height, width))
    top = rng.integers(0, height - box_height, endpoint=True)
    left = rng.integers(0, width - box_width, endpoint=True)
    coverage[top : top + box_height, left : left + box_width] = fine.reshape(
        box_height, _SUBPIXELS, box_width, _SUBPIXELS
    ).mean((1, 3))
    return coverage


def _contrasting_colour(
    rng: np.random.Generator, shape: str, others: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return a colour of the class that stands out from the others, the best of some tries."""
    usual = list(SHAPES).index(shape) * 360 / len(SHAPES)
    hue = (usual + _HUE_SPREAD * rng.normal(size=50)) % 360
    hsv = np.stack([hue, rng.uniform(0.55, 1, 50), rng.uniform(0.45, 1, 50)], axis=1)
    candidates = 255.0 * cv2.cvtColor(hsv[None].astype(np.float32), cv2.COLOR_HSV2RGB)[0]
    contrast = np.linalg.norm(candidates[:, None] - np.array(others), axis=2).min(1)
    enough = np.flatnonzero(contrast >= _MIN_CONTRAST)
    return candidates[enough[0] if len(enough) else contrast.argmax()]


def _ramp(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Return a linear ramp ``(H, W)`` in a random direction, from -1 to 1 over the diagonal."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1])[:, None, None] / 2
    return (x * np.cos(angle) + y * np.sin(angle)) * 2 / np.hypot(height, width)


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, grain: int
) -> NDArray[np.float64]:
    """Return smooth noise ``(H, W)`` of standard deviation near 1, with spots of `grain` pixels."""
    coarse = rng.normal(size=(height // grain + 3, width // grain + 3))
    fine = cv2.resize(coarse, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
    return fine[grain : grain + height, grain : grain + width]


def _shading(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Return the shading, ``(H, W, 1)``, that is added to an object's colour."""
    light = rng.uniform(0, 35) * _ramp(rng, height, width)
    return (light + rng.uniform(2, 10) * smooth_noise(rng, height, width, 6))[..., None]


def _background(
    rng: np.random.Generator, height: int, width: int
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Return an empty texture, ``(H, W, 3)``, and the colours between which it varies."""
    grey = rng.uniform(70, 180)
    ends = [grey + rng.normal(0, 20, 3), grey + rng.normal(0, 20, 3)]
    mix = (1 + _ramp(rng, height, width)[..., None]) / 2
    image = ends[0] * (1 - mix) + ends[1] * mix
    for grain in (3, 12, 40):
        tint = 1 + rng.normal(0, 0.2, 3)
        image += rng.uniform(2, 10) * smooth_noise(rng, height, width, grain)[..., None] * tint
    if rng.random() < 0.5:
        waves = rng.uniform(4, 30) * np.pi * _ramp(rng, height, width)
        image += rng.uniform(4, 16) * np.sin(waves)[..., None]
    _scratch(rng, image)
    return image, ends


def _scratch(rng: np.random.Generator, image: NDArray[np.float64]) -> None:
    """Draw thin lines and specks, in place: edges that belong to no object."""
    size = np.array(image.shape[1::-1])
    for _ in range(rng.integers(3, 15)):
        start = rng.uniform(0, size)
        length = rng.choice([3, 60]) * rng.uniform(0.5, 1.5)
        end = start + length * _arc(rng.uniform(0, 2 * np.pi), 0, 1)[0]
        mark = np.zeros(image.shape[:2], np.uint8)
        first, last = (np.rint(point).astype(int).tolist() for point in (start, end))
        cv2.line(mark, first, last, 255, int(rng.integers(1, 4)), cv2.LINE_AA)
        image += mark[..., None] / 255 * rng.uniform(-50, 50)
