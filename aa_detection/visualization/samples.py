"""What a training run shows of its detector after an evaluation, for TensorBoard."""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..data import CocoDataset
from .contact_sheet import draw_pairs

_IMAGES = 4
_SCORE = 0.3  # a detector is unsure of itself at first


def sample_pictures(
    dataset: CocoDataset, detections: Sequence[Mapping] | str | os.PathLike
) -> Iterator[tuple[str, np.ndarray]]:
    """A few images, the same after every evaluation, with their ground truth and detections.

    Args:
        detections: see :func:`.contact_sheet.write_contact_sheet`.

    Returns:
        Names, and pictures ``(H, W, 3)`` uint8, RGB.
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
