"""Check that an exported detector finds what the detector finds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .check import DisagreementError
from .onnx_detector import SCORE_THRESHOLD

# image rows and columns: tiny, wide, tall; none a multiple of a stride
SIZES = ((97, 61), (427, 640), (1333, 800))
BOX_TOLERANCE = 0.1  # pixels
SCORE_TOLERANCE = 1e-3
_ROUNDING = 1e-5  # of scores, relative

# boxes (N, 4), scores (N,) and classes (N,)
Found = tuple[np.ndarray, np.ndarray, np.ndarray]
# finds objects in an image, (H, W, 3) uint8, RGB
Detect = Callable[[np.ndarray], Found]


@dataclass(frozen=True)
class Agreement:
    """The difference between file and detector on one image.

    Args:
        detections: how many the detector found.
        box: largest difference of a coordinate in pixels.
        score: largest difference of a score.
    """

    height: int
    width: int
    detections: int
    box: float
    score: float

    def __str__(self) -> str:
        return (
            f"image of {self.height}x{self.width}: {self.detections} detections, boxes within "
            f"{self.box:.1e} pixels, scores within {self.score:.1e}"
        )


def check(detect: Detect, file: Path, most: int) -> Iterator[Agreement]:
    """Compare at every size of ``SIZES``, on images of random patches.

    Args:
        detect: with a score threshold of 0, because few patches look like an object. The file's own
            threshold is set to 0, too.
        file: the exported detector, with or without suppression.
        most: limit on the detections of an image.

    Raises:
        DisagreementError: a detection has no counterpart of its class within ``BOX_TOLERANCE`` and
            ``SCORE_TOLERANCE``, or the detector finds nothing that could be compared.
    """
    run = OnnxDetector(file)
    for height, width in SIZES:
        image = patches(height, width)
        expected, got = detect(image), run(image)
        if not len(expected[0]):
            raise DisagreementError(
                f"the detector finds nothing in an image of {height}x{width} even at a score "
                "threshold of 0, so the exported file cannot be checked"
            )
        worst = differences(expected, got, most, image.shape)
        agreement = Agreement(height, width, len(expected[0]), *worst)
        if not (agreement.box <= BOX_TOLERANCE and agreement.score <= SCORE_TOLERANCE):
            raise DisagreementError(
                f"the exported file differs from the detector: {agreement}, expected "
                f"{BOX_TOLERANCE:g} and {SCORE_TOLERANCE:g}"
            )
        yield agreement


def patches(height: int, width: int) -> np.ndarray:
    """Return a random image of patches of all sizes and noise, ``(H, W, 3)`` uint8."""
    rng = np.random.default_rng(0)
    image = np.zeros((height, width, 3))
    for side in (128, 32, 8, 1):
        coarse = rng.uniform(0, 255, (-(-height // side), -(-width // side), 3))
        image += coarse.repeat(side, 0).repeat(side, 1)[:height, :width]
    return (image / 4).astype(np.uint8)


class OnnxDetector:
    """An exported file on onnxruntime's CPU provider, with a score threshold of 0."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # kept, because the session only refers to it
        self._threshold = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(0, np.float32))
        options.add_initializer(SCORE_THRESHOLD, self._threshold)
        self._session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the file's outputs in order."""
        return self._session.run(None, {"image": image})


def differences(
    expected: Sequence[np.ndarray], got: Sequence[np.ndarray], most: int, shape: tuple[int, ...]
) -> tuple[float, float]:
    """Return the largest differences of boxes, in pixels, and of scores.

    Args:
        expected: detections.
        got: detections, or the boxes and scores of all anchors before suppression.
        most: limit on the detections of an image.
        shape: of the image.
    """
    if len(got) == 2:  # of all anchors, not clipped
        boxes, scores = got[0][0], got[1][0]
        height, width, _ = shape
        clipped = np.clip(boxes, 0, [width, height, width, height])
        pairs = [
            _closest(box, score, clipped, scores[:, label]) for box, score, label in zip(*expected)
        ]
    else:
        pairs = [*_counterparts(expected, got, most), *_counterparts(got, expected, most)]
    box, score = np.max(pairs or [(np.inf, np.inf)], axis=0)  # NaN if there is one
    return float(box), float(score)


def _counterparts(
    these: Sequence[np.ndarray], others: Sequence[np.ndarray], most: int
) -> Iterator[tuple[float, float]]:
    """Yield the differences between detections and the closest others of the same class.

    Where there are as many others as there may be, a detection whose score is that of the last of
    them, up to rounding, need not be among them.
    """
    boxes, scores, classes = others
    last = scores.min() * (1 + _ROUNDING) if len(scores) >= most else 0.0
    for box, score, label in zip(*these):
        if not score <= last:  # NaN included
            yield _closest(box, score, boxes[classes == label], scores[classes == label])


def _closest(
    box: np.ndarray, score: np.ndarray, boxes: np.ndarray, scores: np.ndarray
) -> tuple[float, float]:
    """Return the differences to the closest of `boxes`, ``(N, 4)``, measured in tolerances."""
    if not len(boxes):
        return np.inf, np.inf
    box_differences, score_differences = np.abs(boxes - box).max(axis=1), np.abs(scores - score)
    best = np.argmin(
        np.maximum(box_differences / BOX_TOLERANCE, score_differences / SCORE_TOLERANCE)
    )
    return float(box_differences[best]), float(score_differences[best])
