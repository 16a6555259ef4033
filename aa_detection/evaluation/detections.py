"""Detections in one image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """Objects found in one image, highest score first.

    Attributes:
        boxes: ``(N, 4)`` float32, x1, y1, x2, y2 in pixels of the original image.
        scores: ``(N,)`` float32.
        classes: ``(N,)`` int64, from 0 in the order of the dataset's category ids.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, boxes: Tensor, scores: Tensor, classes: Tensor) -> "Detections":
        """Build from a network's output on any device, dropping boxes without width or height."""
        boxes = boxes.float().cpu()
        real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        fields = boxes, scores.float().cpu(), classes.long().cpu()
        return cls(*(field[real].numpy() for field in fields))

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score_threshold: float) -> "Detections":
        """Return the detections with at least that score."""
        keep = self.scores >= score_threshold
        return Detections(self.boxes[keep], self.scores[keep], self.classes[keep])

    def centres(self) -> list[tuple[float, float]]:
        """Return the ``(x, y)`` of each box's centre."""
        return [tuple(centre) for centre in ((self.boxes[:, :2] + self.boxes[:, 2:]) / 2).tolist()]

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Convert to COCO's result format, with boxes as x, y, width, height.

        Args:
            category_ids: the dataset's, in order.
        """
        boxes = self.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(boxes.tolist(), self.scores.tolist(), self.classes.tolist())
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[class_index],
                "bbox": box,
                "score": score,
            }
            for box, score, class_index in rows
        ]
