"""Detectors as functions from images to detections."""

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

# parts of both engines' detectors that compute features rather than boxes
_NETWORKS = ("backbone", "head", "proposal_generator.rpn_head", "roi_heads.box_head")


def _run_in_bfloat16(module: nn.Module) -> None:
    """Make the module's forward run under autocast with float32 outputs."""
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
    """A trained network with the preprocessing used in its evaluation.

    ``detector(images)`` takes a list of images as OpenCV reads them, ``(H, W, 3)`` uint8 in BGR
    order and of any sizes, and returns their :class:`Detections` in order. Images that have the
    same size after preprocessing run as one batch, the others separately, so detections do not
    depend on padding caused by other images. :meth:`predict` accepts more types of image.

    Args:
        model: the network, in evaluation mode.
        categories: names by category id, in the order of the classes; not needed for the evaluation
            inside a training run.
        bfloat16: run the convolutions of `model` in bfloat16 where autocast does; this changes
            `model`. Scores, boxes and non-maximum suppression stay in float32, because bfloat16
            cannot distinguish neighbouring pixel coordinates above 256.
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
        """Detect objects; see the class.

        Raises:
            ValueError: an image has another type or shape.
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
        """Detect objects in an image, or in each image of a list.

        Args:
            images: the path of an image file, a Pillow image, or an array ``(H, W, 3)`` uint8 in
                RGB order; or a list of these, of any sizes.
            bgr: arrays are in BGR order, as OpenCV reads them.
            score_threshold: drop detections with a lower score.
            batch_size: number of images that are read and run together.

        Returns:
            The detections in the one image, or a list as long as `images`.

        Raises:
            DatasetError: a file is not an image.
            ValueError: another argument is not an image, or a value is out of range.
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
        """Return the attention weights of every head from points of an image.

        Args:
            image, bgr: as for :meth:`predict`.
            points: ``(x, y)`` in pixels of the image.

        Returns:
            ``(heads, points, H, W)`` by layer name, in the order of execution: weights that sum to
            1 on the layer's own grid over the image.

        Raises:
            NoAttentionError: the network has no attention.
            DatasetError, ValueError: not an image, or a point outside it.
        """
        _, attention = look(self, to_bgr(image, bgr=bgr))
        names = [layer.name for layer in attention.layers]
        return dict(zip(names, attention.maps(points)))

    @abstractmethod
    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns to which an image of that size is resized."""

    @abstractmethod
    def _detect(self, images: list[np.ndarray]) -> list[Detections]:
        """Detect objects in images of the same :meth:`input_size`."""


def look(detector: BaseDetector, image: np.ndarray) -> tuple[Detections, PictureAttention]:
    """Return a detector's detections in an image and its attention in the same forward pass.

    Args:
        image: ``(H, W, 3)`` uint8, BGR.

    Raises:
        NoAttentionError: the network has no attention.
    """
    size = image.shape[:2]
    with record_attention(detector.model) as record:
        (detections,) = detector([image])
    attention = record.of_picture(picture_size=size, input_size=detector.input_size(*size))
    return detections, attention
