"""A trained detector as a function from pictures to detections."""

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ...evaluation import Detections
from ..detector import Detector
from .data import in_picture, shortest_edge
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
    return TorchvisionDetector.of_checkpoint(
        cfg, model, checkpoint, bfloat16=bfloat16, class_names=class_names
    )


class TorchvisionDetector(Detector):
    """A torchvision detector; its detections are those that :func:`.train.run` evaluates."""

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return shortest_edge(height, width, self.edge, self.max_size)

    def _detect(self, images: list[np.ndarray]) -> list[Detections]:
        device = next(self.model.parameters()).device
        inputs = [self._prepare(image).to(device) for image in images]
        outputs = self.model(inputs)
        return [
            in_picture(output, pixels.shape[1:], image.shape[:2])
            for output, pixels, image in zip(outputs, inputs, images)
        ]

    def _prepare(self, image: np.ndarray) -> Tensor:
        picture = Image.fromarray(image[:, :, ::-1])
        pixels = F.pil_to_tensor(F.resize(picture, self.input_size(*image.shape[:2])))
        return pixels.flip(0) if self.format == "BGR" else pixels
