"""Padding made invisible: an image's features must not depend on its neighbours in the batch.

Detectors pad the images of a batch with zeros to a common size and hand the backbone the padded
tensor alone. Plain convolutions see the padding at the border only; global attention would see all
of it, and would carry what happens at the border everywhere, and so would the averages over the map
that weigh kernels and channels. So the backbone finds each image's real size in the tensor, and
attention leaves the rest out.

What convolutions read at the border still depends on how far the padding reaches. An image alone is
padded too, up to multiples of the pyramid's coarsest stride: that is the image's own canvas. Every
3×3 convolution can be made to read zeros beyond the canvas, as it does alone at the end of the
tensor, or beyond the image itself.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.positions import real_pixels
from .resnet import blocks_with_stride, convs_with_stride, stem

# what is kept out, each with what stands before it: nothing; padding from attention and gates; from
# convolutions what the batch adds to the padding that an image has alone; all padding
MASKS = ("none", "attention", "batch", "all")


def real_size(images: Tensor) -> Tensor:
    """Rows and columns of each image before it was padded with zeros at the bottom and right.

    A pixel counts as padding when all its channels are exactly zero, so the normalisation must not
    make a real pixel zero: a mean that is no whole number in some channel ensures that for 8-bit
    images.

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
    """The sizes of the batch that is on its way through one ResNet, at every stride.

    Args:
        divisor: rows and columns of an image's canvas are multiples of it.
    """

    def __init__(self, divisor: int = 1) -> None:
        self.divisor = divisor
        self.image_size: Tensor | None = None
        self.canvas_size: Tensor | None = None
        self.masks: dict[int, Tensor] = {}

    def begin(self, images: Tensor) -> None:
        """Find the sizes. A batch without padding needs no mask and pays for none."""
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
        """``(B, 2)`` rows and columns of the images; None: they fill the batch."""
        return None if self.image_size is None else _after(self.image_size, stride)

    def apply(self, x: Tensor, stride: int) -> Tensor:
        """`x` of shape ``(B, C, H, W)``, zero outside the images' canvases."""
        if self.canvas_size is None:
            return x
        if stride not in self.masks:
            inside = real_pixels(_after(self.canvas_size, stride), *x.shape[2:])
            self.masks[stride] = inside[:, None].to(x.dtype)
        return x * self.masks[stride]


def mask_padding(resnet: nn.Module, mask: str = "all", size_divisibility: int = 32) -> None:
    """Keep zero padding out of a ResNet of detectron2's or torchvision's, by hooks.

    Parameters and buffers keep their names. Attention and gates leave out what is not the image.
    With norms that do not mix pixels (batch norm in evaluation, frozen batch norm) an image's
    features are then the same, up to rounding, in any batch ("batch"), and with any padding or none
    ("all"); norms that take statistics over the map still count the padded pixels.

    Args:
        mask: of :data:`MASKS`, all but "none". Convolutions see any padding ("attention"), that
            which the image has alone ("batch"), or none ("all").
        size_divisibility: the detector pads an image alone to multiples of it.
    """
    batch = PaddingMask(size_divisibility if mask == "batch" else 1)
    convolutions = mask != "attention"
    image_conv, stem_end = stem(resnet)
    # partials of plain functions: a closure cannot be pickled, and a copied network would share it
    image_conv.register_forward_pre_hook(partial(_find_sizes, batch))
    if convolutions:
        # zero before the ReLU and the max pooling is what pooling makes of the border of a map
        stem_end.register_forward_hook(partial(_mask_output, batch, 2))
    for _, block, block_stride in blocks_with_stride(resnet):
        for _, conv, stride in convs_with_stride(block, block_stride):
            if hasattr(conv, "valid_size"):  # attention's
                conv.register_forward_pre_hook(partial(_tell_size, batch, stride))
            if convolutions and conv.kernel_size != (1, 1):
                conv.register_forward_pre_hook(partial(_mask_input, batch, stride))
            end_stride = stride * conv.stride[0]
        gate = getattr(block, "gate", None)
        if gate is not None:
            gate.register_forward_pre_hook(partial(_tell_size, batch, end_stride))


def _after(size: Tensor, stride: int) -> Tensor:
    """Every stride-2 layer of a ResNet makes ``ceil(n / 2)`` of n pixels."""
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
