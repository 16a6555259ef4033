"""Padding masks: an image's features must not depend on its neighbours in the batch.

Detectors pad the images of a batch with zeros to a common size and hand the backbone the padded
tensor alone. Plain convolutions see the padding only at the border. Global attention would see all
of it and spread border effects everywhere, and so would the averages over the map that weight
kernels and channels. So the backbone finds each image's real size in the tensor, and attention
ignores the rest.

What convolutions read at the border still depends on how far the padding reaches. A single image is
padded too, up to multiples of the pyramid's coarsest stride: that is the image's own canvas. Every
3×3 convolution can be made to read zeros beyond the canvas, as it does at the end of a tensor that
holds the image alone, or beyond the image itself.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.positions import real_pixels
from .resnet import blocks_with_stride, convs_with_stride, stem

# each includes those before it: no mask; no padding in attention and gates; convolutions do not
# read what the batch adds to the padding of a single image; they read no padding at all
MASKS = ("none", "attention", "batch", "all")


def real_size(images: Tensor) -> Tensor:
    """Return the rows and columns of each image before zero padding at the bottom and right.

    A pixel counts as padding if all its channels are exactly zero, so normalisation must not make a
    real pixel zero. For 8-bit images, a fractional mean in some channel ensures that.

    Args:
        images: ``(B, C, H, W)``, normalised and padded.

    Returns:
        ``(B, 2)`` integers on the device of `images`, without a synchronisation.
    """
    real = (images != 0).any(dim=1)  # (B, H, W)
    lengths = []
    for other in (2, 1):
        line = real.any(dim=other)  # (B, H), then (B, W)
        count = torch.arange(1, line.shape[1] + 1, device=line.device)
        lengths.append((line * count).amax(dim=1))
    return torch.stack(lengths, dim=1)


class PaddingMask:
    """Image sizes, at every stride, of the batch that is currently passing through a ResNet.

    Args:
        divisor: rows and columns of an image's canvas are multiples of it.
    """

    def __init__(self, divisor: int = 1) -> None:
        self.divisor = divisor
        self.image_size: Tensor | None = None
        self.canvas_size: Tensor | None = None
        self.masks: dict[int, Tensor] = {}

    def begin(self, images: Tensor) -> None:
        """Find the sizes. A batch without padding needs no mask and costs nothing further."""
        self.masks = {}
        self.image_size = self.canvas_size = None
        if not images.numel():
            return
        self.image_size = real_size(images)
        self.canvas_size = _after(self.image_size, self.divisor) * self.divisor
        if not torch.compiler.is_compiling():
            full = self.image_size.new_tensor(images.shape[-2:])
            if bool((self.image_size >= full).all()):
                self.image_size = None
            if bool((self.canvas_size >= full).all()):
                self.canvas_size = None

    def size_at(self, stride: int) -> Tensor | None:
        """Return ``(B, 2)`` rows and columns of the images, or None if they fill the batch."""
        return None if self.image_size is None else _after(self.image_size, stride)

    def apply(self, x: Tensor, stride: int) -> Tensor:
        """Zero `x`, ``(B, C, H, W)``, outside the images' canvases."""
        if self.canvas_size is None:
            return x
        if stride not in self.masks:
            inside = real_pixels(_after(self.canvas_size, stride), *x.shape[2:])
            self.masks[stride] = inside[:, None].to(x.dtype)
        return x * self.masks[stride]


def mask_padding(resnet: nn.Module, mask: str = "all", size_divisibility: int = 32) -> None:
    """Keep zero padding out of a detectron2 or torchvision ResNet, by hooks.

    Parameters and buffers keep their names. Attention and gates ignore everything outside the
    image. With norms that do not mix pixels (batch norm in evaluation, frozen batch norm) an
    image's features are then the same, up to rounding, in any batch ("batch"), or with any padding
    or none ("all"). Norms that take statistics over the map still count padded pixels.

    Args:
        mask: one of :data:`MASKS` except "none". Convolutions see all padding ("attention"), only
            the padding of a single image ("batch"), or none ("all").
        size_divisibility: the detector pads a single image to multiples of it.
    """
    batch = PaddingMask(size_divisibility if mask == "batch" else 1)
    convolutions = mask != "attention"
    image_conv, stem_end = stem(resnet)
    # partials of plain functions: closures cannot be pickled, and a copied network would share them
    image_conv.register_forward_pre_hook(partial(_find_sizes, batch))
    if convolutions:
        # max pooling treats zeros before the ReLU like the border of a map
        stem_end.register_forward_hook(partial(_mask_output, batch, 2))
    for _, block, block_stride in blocks_with_stride(resnet):
        for _, conv, stride in convs_with_stride(block, block_stride):
            if hasattr(conv, "valid_size"):  # an attention layer
                conv.register_forward_pre_hook(partial(_tell_size, batch, stride))
            if convolutions and conv.kernel_size != (1, 1):
                conv.register_forward_pre_hook(partial(_mask_input, batch, stride))
            end_stride = stride * conv.stride[0]
        gate = getattr(block, "gate", None)
        if gate is not None:
            gate.register_forward_pre_hook(partial(_tell_size, batch, end_stride))


def _after(size: Tensor, stride: int) -> Tensor:
    """Return the size after `stride`: each stride-2 layer makes ``ceil(n / 2)`` of n pixels."""
    return (size + stride - 1) // stride


def _find_sizes(mask: PaddingMask, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    mask.begin(args[0])


def _mask_output(
    mask: PaddingMask, stride: int, module: nn.Module, args: tuple[Tensor, ...], out: Tensor
) -> Tensor:
    return mask.apply(out, stride)


def _mask_input(
    mask: PaddingMask, stride: int, module: Any, args: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    return (mask.apply(args[0], stride), *args[1:])


def _tell_size(mask: PaddingMask, stride: int, module: Any, args: tuple[Tensor, ...]) -> None:
    module.valid_size = mask.size_at(stride)
