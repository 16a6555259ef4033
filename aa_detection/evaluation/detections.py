"""What a detector found in a picture, and a detector as a function from pictures to that."""

import functools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Detections:
    """The objects found in one picture, best first.

    Attributes:
        boxes: ``(N, 4)`` float32, x1, y1, x2, y2 in pixels of the picture as it was given.
        scores: ``(N,)`` float32.
        classes: ``(N,)`` int64, from 0 in the order of the dataset's category ids.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, boxes: Tensor, scores: Tensor, classes: Tensor) -> "Detections":
        """From a network's output on any device, without what has no width or no height."""
        boxes = boxes.float().cpu()
        real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        fields = boxes, scores.float().cpu(), classes.long().cpu()
        return cls(*(field[real].numpy() for field in fields))

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score_threshold: float) -> "Detections":
        """Those of at least that score."""
        keep = self.scores >= score_threshold
        return Detections(self.boxes[keep], self.scores[keep], self.classes[keep])

    def centres(self) -> list[tuple[float, float]]:
        """``(x, y)`` of each box."""
        return [tuple(centre) for centre in ((self.boxes[:, :2] + self.boxes[:, 2:]) / 2).tolist()]

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """COCO's result format: boxes as x, y, width, height.

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


# the parts of both engines' detectors that compute features, not boxes
_NETWORKS = ("backbone", "head", "proposal_generator.rpn_head", "roi_heads.box_head")


def _run_in_bfloat16(module: nn.Module) -> None:
    """Under autocast from now on, with outputs in float32."""
    forward = module.forward

    @functools.wraps(forward)
    def in_bfloat16(*args: Any, **kwargs: Any) -> Any:
        device = next(module.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16):
            return _float32(forward(*args, **kwargs))

    module.forward = in_bfloat16


def _float32(output: Any) -> Any:
    if isinstance(output, dict):
        return {name: _float32(x) for name, x in output.items()}
    if isinstance(output, (list, tuple)):
        return type(output)(_float32(x) for x in output)
    return output.float()


class Detector(ABC):
    """A trained network with the preprocessing of its evaluation.

    ``detector(images)`` takes pictures as OpenCV has them, a list of ``(H, W, 3)`` uint8 in the
    order BGR and of any sizes, and returns their :class:`Detections` in order. Pictures that the
    preprocessing makes the same size run as one batch, others apart: what is found in a picture
    does not depend on the padding that its neighbours would bring.

    Args:
        model: the network, in evaluation mode.
        bfloat16: run the convolutions of `model`, which is changed, in bfloat16 where autocast
            does. Scores, boxes and their suppression stay in float32, whose pixels bfloat16 cannot
            tell apart above 256.
    """

    def __init__(self, model: nn.Module, *, bfloat16: bool = False) -> None:
        self.model = model
        if bfloat16:
            for name, module in model.named_modules():
                if name in _NETWORKS:
                    _run_in_bfloat16(module)

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """See the class.

        Raises:
            ValueError: something that is no such picture.
        """
        alike = defaultdict(list)
        for i, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(
                    f"images[{i}] must be (H, W, 3) uint8, got {image.shape} {image.dtype}"
                )
            alike[self.input_size(*image.shape[:2])].append(i)
        found: dict[int, Detections] = {}
        with torch.inference_mode():
            for indices in alike.values():
                found.update(zip(indices, self._detect([images[i] for i in indices])))
        return [found[i] for i in range(len(images))]

    @abstractmethod
    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns to which a picture of that size is resized."""

    @abstractmethod
    def _detect(self, images: list[np.ndarray]) -> list[Detections]:
        """On pictures of one :meth:`input_size`."""
