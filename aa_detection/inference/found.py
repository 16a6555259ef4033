"""Detections with class names, and their conversion to other formats."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..evaluation import Detections
from ..visualization.boxes import annotate
from .pictures import Picture, to_bgr

if TYPE_CHECKING:
    import supervision


class PictureDetections:
    """Objects found in one image, highest score first.

    Args:
        detections: by class number.
        categories: names by category id, in the order of the classes.
        picture: the image they were found in; :meth:`draw` reads it again.
        bgr: whether an array is in BGR order.

    Attributes:
        boxes: ``(N, 4)`` float32, x1, y1, x2, y2 in pixels of the image.
        scores: ``(N,)`` float32.
        class_ids: ``(N,)`` int64, from 0 in the order of the dataset's category ids.
        class_names: N names.
        categories: as above.
    """

    def __init__(
        self,
        detections: Detections,
        categories: Mapping[int, str],
        picture: Picture,
        bgr: bool = False,
    ) -> None:
        names = list(categories.values())
        self.boxes: np.ndarray = detections.boxes
        self.scores: np.ndarray = detections.scores
        self.class_ids: np.ndarray = detections.classes
        self.class_names: list[str] = [names[i] for i in self.class_ids]
        self.categories = categories
        self._detections = detections
        self._picture = picture
        self._bgr = bgr

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        found = (f"{n} {s:.2f}" for n, s in zip(self.class_names, self.scores.tolist()))
        return f"<{len(self)} detections: {', '.join(found)}>" if len(self) else "<no detections>"

    def draw(self) -> Image.Image:
        """Return a copy of the image with boxes, names and scores.

        Raises:
            DatasetError: the image file no longer exists.
        """
        pixels = to_bgr(self._picture, bgr=self._bgr)
        return Image.fromarray(annotate(pixels, self.to_coco(), self.categories)[:, :, ::-1])

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """Convert to COCO's result format: boxes as x, y, width, height; dataset category ids."""
        return self._detections.to_coco(image_id, list(self.categories))

    def to_supervision(self) -> "supervision.Detections":
        """Convert to supervision's detections, with names.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError:
            raise ImportError(
                "to_supervision() needs supervision, which is not installed: "
                "pip install 'aa_detection[convert]'"
            ) from None
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.class_ids,
            data={"class_name": np.array(self.class_names, dtype=str)},
        )
