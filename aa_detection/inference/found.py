"""What was found in a picture, with names, and in the forms that others take."""

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
    """The objects found in one picture, best first.

    Args:
        detections: by class number.
        categories: names by category id, in the order of the classes.
        picture: that they were found in; read again by :meth:`draw`.
        bgr: an array's order.

    Attributes:
        boxes: ``(N, 4)`` float32, x1, y1, x2, y2 in pixels of the picture.
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
        """A copy of the picture with boxes, names and scores.

        Raises:
            DatasetError: the picture's file has gone since.
        """
        pixels = to_bgr(self._picture, bgr=self._bgr)
        return Image.fromarray(annotate(pixels, self.to_coco(), self.categories)[:, :, ::-1])

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """COCO's result format: boxes as x, y, width, height, with the dataset's category ids."""
        return self._detections.to_coco(image_id, list(self.categories))

    def to_supervision(self) -> "supervision.Detections":
        """As supervision has detections, with their names.

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
