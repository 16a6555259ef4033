"""The AW-convolution (An Attention Module for Convolutional Neural Networks, arXiv 2108.08205)."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair


class AWConv2d(nn.Module):
    """A convolution whose kernel is reweighted for every image.

    ``O = Conv(I, A ⊗ K)``: the attention map ``A`` has the shape of the kernel ``K`` and is
    computed from the image: average the input to the kernel's size, reduce the channels by a
    pointwise convolution, apply ReLU, restore the channels by a second one, apply a sigmoid.

    The paper leaves some choices open; this layer makes them as follows:

    - The two pointwise convolutions go from `in_channels` to ``in_channels // reduction`` and back,
      with biases. This gives AW-ResNet-50 its 25.72 M parameters.
    - Their ``(in_channels, *kernel_size)`` outputs are repeated over the filters, so the expansion
      to the kernel's shape has no parameters: all filters share the weight of an input channel at
      a position of the kernel. In a grouped convolution each filter takes its group's channels.
    - The last bias starts at 2, so the attention starts near 0.9 and a network with the weights of
      a plain checkpoint starts near the plain network.

    The arguments up to `bias` are those of ``torch.nn.Conv2d`` (zero padding). The parameters
    ``weight`` and ``bias`` have its names, shapes and meaning: a checkpoint of the plain
    convolution fits.

    One grouped convolution processes all images. Their kernels are kept for the backward pass:
    ``B`` times the memory of ``weight``, and as much again for their gradients while the layer's
    backward pass runs. At batch 16 in float32 that is 151 MB for a 3×3 kernel of 512 channels and
    0.72 GB for all layers of an AW-ResNet-50, whatever the image size.

    Args:
        reduction: r, input channels over the channels between the two pointwise convolutions.
        norm: a module applied to the output, as in detectron2's ``Conv2d``.
        activation: a callable applied last.

    Attributes:
        valid_size: None, or ``(B, 2)`` integers, the number of real rows and columns of each
            image's input map; the rest must be zero. The caller that pads a batch sets it before
            the call, see :mod:`aa_detection.models.padding`. Only real pixels are then averaged,
            and an image has the same maps alone and in a batch.
        grouped: True. If False, the layer sums a pointwise convolution for every position of the
            kernel instead. That is slower, but its graph is the same for every batch and image
            size.

    Shapes:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H_out, W_out)``, sizes as ``nn.Conv2d``'s.

    Raises:
        ValueError: a reduction below 1, or channels that are not divisible by the groups.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        reduction: int = 16,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {reduction}")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels = {in_channels} and out_channels = "
                f"{out_channels}, got {groups}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.reduction = reduction
        self.valid_size: Tensor | None = None
        self.grouped = True

        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        reduced = max(1, in_channels // reduction)
        self.reduce = nn.Conv2d(in_channels, reduced, 1)
        self.restore = nn.Conv2d(reduced, in_channels, 1)
        self.norm = norm
        self.activation = activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all convolutions as ``nn.Conv2d``, and the last bias of the attention to 2."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)
        self.reduce.reset_parameters()
        self.restore.reset_parameters()
        nn.init.constant_(self.restore.get_parameter("bias"), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        attention = self.attention(x)
        settings = (self.stride, self.padding, self.dilation)
        if not self.grouped:
            out = self._sum_of_pointwise(x, attention)
        elif len(x):
            batch, groups = len(x), self.groups
            kernels = attention.unflatten(1, (groups, 1, -1)) * self.weight.unflatten(
                0, (groups, -1)
            )  # (B, groups, out_channels / groups, in_channels / groups, *kernel_size)
            out = F.conv2d(
                x.flatten(0, 1)[None],
                kernels.flatten(0, 2),
                None if self.bias is None else self.bias.repeat(batch),
                *settings,
                groups=batch * groups,
            )[0].unflatten(0, (batch, -1))
        else:
            # zero groups are not allowed; adding an empty sum keeps every parameter in the graph
            out = F.conv2d(x, self.weight, self.bias, *settings, self.groups) + attention.sum()
        if self.norm is not None:
            out = self.norm(out)
        if self.activation is not None:
            out = self.activation(out)
        return out

    def attention(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, in_channels, *kernel_size)``, in 0 to 1."""
        if self.valid_size is None and self.grouped:
            pooled = F.adaptive_avg_pool2d(x, self.kernel_size)
        else:
            weights = []
            for axis, size in enumerate(x.shape[2:]):
                if self.valid_size is None:
                    length = torch.full((x.shape[0],), size, device=x.device)
                else:
                    length = self.valid_size[:, axis]
                weights.append(_bins(length, size, self.kernel_size[axis], x.dtype))
            rows, columns = weights
            pooled = torch.einsum("bap,bcpq,beq->bcae", rows, x, columns)
        return self.restore(self.reduce(pooled).relu()).sigmoid()

    def _sum_of_pointwise(self, x: Tensor, attention: Tensor) -> Tensor:
        """Compute the convolution of :meth:`forward` one position of the kernel at a time."""
        x = F.pad(x, [p for p in reversed(self.padding) for _ in range(2)])
        # of the part of the map that each position of the kernel steps over
        sizes = [n - d * (k - 1) for n, d, k in zip(x.shape[2:], self.dilation, self.kernel_size)]
        out: Any = 0 if self.bias is None else self.bias[:, None, None]
        for row, column in itertools.product(*map(range, self.kernel_size)):
            top, left = row * self.dilation[0], column * self.dilation[1]
            under = x[
                :,
                :,
                top : top + sizes[0] : self.stride[0],
                left : left + sizes[1] : self.stride[1],
            ]
            weighted = under * attention[:, :, row, column, None, None]
            kernel = self.weight[:, :, row, column, None, None]
            out = out + F.conv2d(weighted, kernel, groups=self.groups)
        return out

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, reduction={self.reduction}"
        )
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text


def _bins(length: Tensor, size: int, bins: int, dtype: torch.dtype) -> Tensor:
    """Return ``(B, bins, size)`` weights that average the first `length` pixels into `bins`.

    The bins are those of ``adaptive_avg_pool2d``: they overlap by a pixel where `bins` does not
    divide the length. `length` is ``(B,)`` integers; 0 makes all weights zero.
    """
    number = torch.arange(bins, device=length.device)
    first = number * length[:, None] // bins
    end = ((number + 1) * length[:, None] + bins - 1) // bins
    pixel = torch.arange(size, device=length.device)
    inside = (pixel >= first[..., None]) & (pixel < end[..., None])
    return inside.to(dtype) / (end - first).clamp(min=1)[..., None]
