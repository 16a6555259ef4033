"""A trained detector as a function from pictures to detections."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from ...evaluation import Detections
from ..detector import Detector
from .weights import load_trained


def load_detector(
    cfg: CfgNode,
    *,
    allow_pickle: bool = False,
    bfloat16: bool = False,
    class_names: str | None = None,
) -> Detector:
    """See :meth:`aa_detection.engines.Engine.load_detector`."""
    model, checkpoint = load_trained(cfg, allow_pickle=allow_pickle)
    return Detectron2Detector.of_checkpoint(
        cfg, model, checkpoint, bfloat16=bfloat16, class_names=class_names
    )


class Detectron2Detector(Detector):
    """A detector of detectron2's; its detections are those that :func:`.train.run` evaluates."""

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        if self.edge == 0:
            return height, width
        size = T.ResizeShortestEdge.get_output_shape(height, width, self.edge, self.max_size)
        return max(1, size[0]), max(1, size[1])

    def _detect(self, images: list[np.ndarray]) -> list[Detections]:
        outputs = self.model([self._prepare(image) for image in images])
        instances = [output["instances"] for output in outputs]
        return [Detections.of(i.pred_boxes.tensor, i.scores, i.pred_classes) for i in instances]

    def _prepare(self, image: np.ndarray) -> dict[str, Any]:
        height, width = image.shape[:2]
        if self.format == "RGB":
            image = image[:, :, ::-1]
        resize = T.ResizeTransform(height, width, *self.input_size(height, width))
        pixels = np.ascontiguousarray(resize.apply_image(image).transpose(2, 0, 1))
        return {"image": torch.from_numpy(pixels), "height": height, "width": width}
