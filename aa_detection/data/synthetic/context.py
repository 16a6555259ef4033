"""The context dataset: what an object is can be told only from the far end of the image.

An image is a strip. It begins, at the left, with a board of one of two colours and ends, at the
right, with a few grey discs. A disc's class is its tone, dark or light, *and the colour of the
board*.

Between the board and the discs lie at least :data:`DISTANCE` pixels of background. In a RetinaNet
with a ResNet-18 that is more than any convolution sees from the places on P3 where it calls the
discs' classes: without attention, the tone is all there is to go by. (A group norm in the pyramid
or the head would be such an attention: its statistics are of the whole map.)
"""

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

from .drawn import Drawing, DrawnDataset
from .scene import place, silhouette, smooth_noise

HEIGHT, WIDTH = 32, 416  # pixels
BOARD_WIDTH = 48
DISCS_FROM = 312  # the first column of discs
DISTANCE = DISCS_FROM - BOARD_WIDTH

_TONES = {"dark": -1, "light": 1}  # of a disc, against the background
_HUES = {"red": 0, "cyan": 180}  # degrees
_HUE_SPREAD = 8
_DISCS = (2, 5)  # both ends included; crowding may leave some out
_SIZES = (9, 13)  # pixels, the longer side
_GAP = 3  # pixels between two discs, at least
_PLACES_TO_TRY = 10  # before a disc is left out
_GREYS = (118, 134)  # of the background
_CONTRAST = (70, 100)  # of a disc's grey to it, darker or lighter


def draw_strip(rng: np.random.Generator, index: int) -> Drawing:
    """Draws an image ``(HEIGHT, WIDTH, 3)``, RGB, and the discs in it, by class and pixels."""
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
    image += rng.normal(0, rng.uniform(0.5, 3), (HEIGHT, WIDTH, 1))  # the sensor's noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), discs


def class_name(tone: str, board: str) -> str:
    """The category of a disc of this tone on this board."""
    return f"{tone} disc, {board} board"


def _discs(rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Share of each pixel of the strip's right end that a disc covers, for each disc."""
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
    """RGB, 0 … 255."""
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
