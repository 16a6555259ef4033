"""A detector as a function from pictures to detections."""

import functools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..evaluation import Detections
from ..visualization.attention_maps import PictureAttention, record_attention

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


def look(detector: Detector, image: np.ndarray) -> tuple[Detections, PictureAttention]:
    """What a detector finds in a picture, and its attention while it does.

    Args:
        image: ``(H, W, 3)`` uint8, BGR.

    Raises:
        NoAttentionError: the network has none.
    """
    size = image.shape[:2]
    with record_attention(detector.model) as record:
        (detections,) = detector([image])
    attention = record.of_picture(picture_size=size, input_size=detector.input_size(*size))
    return detections, attention
