"""Sample images that a training run logs to TensorBoard after an evaluation."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..data import CocoDataset, read_image
from ..inference import BaseDetector, look
from ..layers import AAConv2d
from ..visualization.attention_figure import attention_figure
from ..visualization.contact_sheet import draw_pairs

_IMAGES = 4
_SCORE = 0.3  # low, because scores are low early in training
_ATTENTION_IMAGES = 2


def sample_pictures(
    dataset: CocoDataset,
    detections: Sequence[Mapping[str, Any]] | str | os.PathLike[str],
    detector: BaseDetector,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a few annotated images, the same ones after every evaluation.

    Each shows ground truth and detections. If the network has attention, figures for up to two of
    them follow, each from the centre of the detection with the highest score.

    Args:
        detections: see :func:`..visualization.contact_sheet.write_contact_sheet`.
        detector: the one that made them, in evaluation mode.

    Returns:
        Names, and images ``(H, W, 3)`` uint8, RGB.
    """
    pairs = draw_pairs(
        dataset.annotation_file,
        dataset.image_root,
        detections,
        score_threshold=_SCORE,
        max_images=_IMAGES,
    )
    for pair in pairs:
        yield f"{dataset.name}/image {pair.image_id}", np.array(pair.picture)

    layers = [layer for layer in detector.model.modules() if isinstance(layer, AAConv2d)]
    if not any(layer.value_depth for layer in layers):
        return
    for pair in pairs[:_ATTENTION_IMAGES]:
        image = np.ascontiguousarray(np.asarray(read_image(pair.image_file))[:, :, ::-1])
        found, attention = look(detector, image)
        if len(found):
            x0, y0, x1, y1 = found.boxes[found.scores.argmax()].tolist()
            (figure,) = attention_figure(image, attention, [((x0 + x1) / 2, (y0 + y1) / 2)])
            yield f"{dataset.name}/attention in image {pair.image_id}", np.array(figure)
