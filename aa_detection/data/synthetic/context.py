"""The context dataset: an object's class depends on the far end of the image.

An image is a strip. At its left end is a board in one of two colours, and at its right end are a
few grey discs. A disc's class is its tone, dark or light, *and the colour of the board*.

Between the board and the discs lie at least :data:`DISTANCE` pixels of background. In a RetinaNet
with a ResNet-18 that exceeds the receptive field of every location on P3 that classifies a disc:
without attention only the tone is visible. (A group norm in the pyramid or the head would act as
attention: its statistics cover the whole map.)
"""

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

from .drawn import Drawing, DrawnDataset
from .scene import place, silhouette, smooth_noise

HEIGHT, WIDTH = 32, 416  # pixels
BOARD_WIDTH = 48
DISCS_FROM = 312  # the first column in which discs may be
DISTANCE = DISCS_FROM - BOARD_WIDTH

_TONES = {"dark": -1, "light": 1}  # of a disc, relative to the background
_HUES = {"red": 0, "cyan": 180}  # degrees
_HUE_SPREAD = 8
_DISCS = (2, 5)  # per image, inclusive; crowding may leave some out
_SIZES = (9, 13)  # pixels, the longer side
_GAP = 3  # minimum number of pixels between two discs
_PLACES_TO_TRY = 10  # before a disc is left out
_GREYS = (118, 134)  # of the background
_CONTRAST = (70, 100)  # between the greys of a disc and the background


def draw_strip(rng: np.random.Generator, index: int) -> Drawing:
    """Draw an image ``(HEIGHT, WIDTH, 3)``, RGB, and its discs, each as class and pixels."""
    grey = rng.uniform(*_GREYS)
    texture = rng.uniform(2, 5) * smooth_noise(rng, HEIGHT, WIDTH, 6)
    image = np.repeat((grey + texture)[..., None], 3, axis=2)
    board = str(rng.choice(list(_HUES)))
    image[:, :BOARD_WIDTH] += _board_colour(rng, board) - grey
    discs = []
    for coverage in _discs(rng):
        tone = str(rng.choice(list(_TONES)))
        contrast = _TONES[tone] * rng.uniform(*_CONTRAST)
        image[:, DISCS_FROM:] += coverage[..., None] * contrast
        visible = np.zeros(image.shape[:2], bool)
        visible[:, DISCS_FROM:] = coverage >= 0.5
        discs.append((class_name(tone, board), visible))
    image += rng.normal(0, rng.uniform(0.5, 3), (HEIGHT, WIDTH, 1))  # sensor noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), discs


def class_name(tone: str, board: str) -> str:
    """Return the category of a disc of this tone on an image with this board."""
    return f"{tone} disc, {board} board"


def _discs(rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Return, for each disc, the share of each pixel of the strip's right end that it covers."""
    size = HEIGHT, WIDTH - DISCS_FROM
    discs: list[NDArray[np.float64]] = []
    taken = np.zeros(size, bool)
    around = np.ones((2 * _GAP + 1, 2 * _GAP + 1), np.uint8)
    for _ in range(rng.integers(*_DISCS, endpoint=True)):
        outline = silhouette(rng, "circle", rng.uniform(*_SIZES))
        for _ in range(_PLACES_TO_TRY):
            coverage = place(outline, rng, *size)
            pixels = cv2.dilate((coverage > 0).astype(np.uint8), around) > 0
            if not (taken & pixels).any():
                discs.append(coverage)
                taken |= coverage > 0
                break
    return discs


def _board_colour(rng: np.random.Generator, board: str) -> NDArray[np.float64]:
    """Return the colour as RGB, 0 … 255."""
    hue = (_HUES[board] + _HUE_SPREAD * rng.normal()) % 360
    hsv = np.array([[[hue, rng.uniform(0.9, 1), rng.uniform(0.9, 1)]]], np.float32)
    return 255.0 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


CONTEXT = DrawnDataset(
    name="context",
    version="1",
    category_ids={
        class_name(tone, board): number
        for number, (tone, board) in enumerate(itertools.product(_TONES, _HUES), 1)
    },
    draw=draw_strip,
)

write_context_dataset = CONTEXT.write
