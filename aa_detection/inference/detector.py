"""A detector as a function from pictures to detections."""

import functools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from ..evaluation import Detections
from ..visualization.attention_maps import PictureAttention, record_attention
from .found import PictureDetections
from .pictures import Picture, to_bgr

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


class BaseDetector(ABC):
    """A trained network with the preprocessing of its evaluation.

    ``detector(images)`` takes pictures as OpenCV has them, a list of ``(H, W, 3)`` uint8 in the
    order BGR and of any sizes, and returns their :class:`Detections` in order. Pictures that the
    preprocessing makes the same size run as one batch, others apart: what is found in a picture
    does not depend on the padding that its neighbours would bring. :meth:`predict` takes whatever
    people have pictures in.

    Args:
        model: the network, in evaluation mode.
        categories: names by category id, in the order of the classes; a run that evaluates itself
            asks for none.
        bfloat16: run the convolutions of `model`, which is changed, in bfloat16 where autocast
            does. Scores, boxes and their suppression stay in float32, whose pixels bfloat16 cannot
            tell apart above 256.
    """

    def __init__(
        self,
        model: nn.Module,
        categories: Mapping[int, str] | None = None,
        *,
        bfloat16: bool = False,
    ) -> None:
        self.model = model
        self.categories: Mapping[int, str] = categories or {}
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

    @overload
    def predict(
        self,
        images: Picture,
        *,
        bgr: bool = ...,
        score_threshold: float = ...,
        batch_size: int = ...,
    ) -> PictureDetections: ...

    @overload
    def predict(
        self,
        images: Sequence[Picture],
        *,
        bgr: bool = ...,
        score_threshold: float = ...,
        batch_size: int = ...,
    ) -> list[PictureDetections]: ...

    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        bgr: bool = False,
        score_threshold: float = 0.5,
        batch_size: int = 4,
    ) -> PictureDetections | list[PictureDetections]:
        """What is in a picture, or in each of a list of them.

        Args:
            images: the path of an image file, an image of Pillow's, an array ``(H, W, 3)`` uint8 in
                the order RGB; or a list of these, of any sizes.
            bgr: arrays are in the order BGR, as OpenCV reads them.
            score_threshold: detections of a lower score are left out.
            batch_size: pictures that are read and go through the network together.

        Returns:
            The detections in the one picture, or a list as long as `images`.

        Raises:
            DatasetError: a file that is no image.
            ValueError: something else that is none, or a value out of range.
        """
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must be from 0 to 1, got {score_threshold}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not isinstance(images, (list, tuple)):
            (only,) = self.predict(
                [images], bgr=bgr, score_threshold=score_threshold, batch_size=batch_size
            )
            return only
        found: list[PictureDetections] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            pixels = [to_bgr(image, bgr=bgr) for image in batch]
            for image, detections in zip(batch, self(pixels)):
                kept = detections.above(score_threshold)
                found.append(PictureDetections(kept, self.categories, image, bgr))
        return found

    def attention(
        self, image: Picture, points: Sequence[tuple[float, float]], *, bgr: bool = False
    ) -> dict[str, Tensor]:
        """What every attention head looks at from points of a picture.

        Args:
            image, bgr: as for :meth:`predict`.
            points: ``(x, y)`` in pixels of the picture.

        Returns:
            By the layers' names, in the order in which they ran, ``(heads, points, H, W)``: weights
            on the layer's own grid over the picture, whose sum is 1.

        Raises:
            NoAttentionError: the network has none.
            DatasetError, ValueError: no image, or a point outside of it.
        """
        _, attention = look(self, to_bgr(image, bgr=bgr))
        names = [layer.name for layer in attention.layers]
        return dict(zip(names, attention.maps(points)))

    @abstractmethod
    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns to which a picture of that size is resized."""

    @abstractmethod
    def _detect(self, images: list[np.ndarray]) -> list[Detections]:
        """On pictures of one :meth:`input_size`."""


def look(detector: BaseDetector, image: np.ndarray) -> tuple[Detections, PictureAttention]:
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
