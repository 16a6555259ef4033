"""The attention-augmented convolution (Bello et al., ICCV 2019, section 3)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..attention import relative_attention_2d
from ..attention.positions import real_pixels
from .sinusoidal import sinusoidal_positions

# ways to join the maps of the convolution and of attention
MERGES = ("concat", "add")


class AAConv2d(nn.Module):
    """A convolution joined by 2-D relative self-attention over all pixels of the map.

    One 1×1 convolution makes queries, keys and values, and a second one, ``proj``, mixes the heads.
    `merge` selects how attention joins the convolution:

    - "concat", ``concat[Conv(X), MHA(X)]`` (Bello et al., section 3.3): the convolution makes
      ``out_channels - value_depth`` maps and attention the rest.
    - "add", ``Conv(X) + MHA(X)``: the convolution makes all maps, and ``proj`` projects the
      ``value_depth`` attention maps to as many. ``proj`` starts at zero, so at first the layer
      equals the convolution bit for bit.

    The arguments up to `bias` are those of ``torch.nn.Conv2d`` (zero padding, no groups). The
    parameters ``weight`` and ``bias`` have its names and meaning, and the attention part does not
    use them. A checkpoint of the plain convolution fits: unchanged with "add", without its last
    filters with "concat".

    With a stride, attention runs at the output's resolution, on a 3×3 average of the input.

    Args:
        num_heads: heads of the attention, N_h.
        key_ratio: κ, total depth of the keys over `out_channels`; rounded up to a multiple of
            `num_heads`.
        value_ratio: υ, attention maps over `out_channels`; rounded down to a multiple of
            `num_heads`, but at least one map per head. 0 is exactly the convolution. At 1, "concat"
            has no convolution, and the values of "add" are as deep as its output.
        min_key_depth_per_head: the paper's ImageNet networks use 20.
        relative: learn relative positions.
        absolute: add sinusoidal absolute positions to the attention's input, the paper's baseline.
            With neither `relative` nor `absolute`, attention ignores position.
        max_size: rows and columns of the largest map, after stride and pooling, on which attention
            distinguishes all distances; an int for both. On larger maps distances are clamped.
        pool: run attention at half the output's resolution on a 3×3 average and upsample its maps
            bilinearly (section 4.2), which divides its memory by 16.
        merge: "concat" or "add".
        backend: see :func:`aa_detection.relative_attention_2d`.
        norm: a module applied to the merged maps, as in detectron2's ``Conv2d``.
        activation: a callable applied last.

    Attributes:
        key_depth, value_depth: d_k and d_v, channels of all heads together.
        valid_size: None, or ``(B, 2)`` integers, the number of real rows and columns of each
            image's *input* map. The caller that pads a batch sets it before the call, see
            :mod:`aa_detection.models.padding`. An image then has the same maps alone and in a
            batch, provided that the padding is zero and the convolution makes ``ceil(n / stride)``
            of n pixels, as in every ResNet.

    Shapes:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H_out, W_out)``, sizes as ``nn.Conv2d``'s.

    Raises:
        ValueError: an unknown merge, ratios outside 0..1, fewer than one head, more heads than
            maps, a depth that is not divisible by the heads, or padding that reaches beyond the
            kernel's centre.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    rel_h: nn.Parameter | None
    rel_w: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        num_heads: int = 8,
        key_ratio: float = 0.2,
        value_ratio: float = 0.1,
        min_key_depth_per_head: int = 0,
        relative: bool = True,
        absolute: bool = False,
        max_size: int | tuple[int, int],
        pool: bool = False,
        merge: str = "concat",
        backend: str = "auto",
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge must be among {', '.join(MERGES)}, got {merge!r}")
        self.key_depth, self.value_depth = attention_depths(
            out_channels, num_heads, key_ratio, value_ratio, min_key_depth_per_head
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.num_heads = num_heads
        self.absolute = absolute
        self.max_size = _pair(max_size)
        self.pool = pool
        self.merge = merge
        self.backend = backend
        self.valid_size: Tensor | None = None

        # the input pixel under the kernel's centre at the first output pixel
        self.first_center = tuple(
            d * (k - 1) // 2 - p for k, p, d in zip(self.kernel_size, self.padding, self.dilation)
        )
        if self.value_depth and min(self.first_center) < 0:
            raise ValueError(
                f"padding {self.padding} puts the centre of a {self.kernel_size} kernel outside "
                "the map, where no pixel is to attend from; the most is dilation * (kernel - 1) / 2"
            )

        conv_channels = out_channels - (self.value_depth if merge == "concat" else 0)
        attention_channels = self.value_depth if merge == "concat" else out_channels
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if conv_channels:
            self.weight = nn.Parameter(torch.empty(conv_channels, in_channels, *self.kernel_size))
            if bias:
                self.bias = nn.Parameter(torch.empty(conv_channels))
        if self.value_depth:
            self.qkv = nn.Conv2d(in_channels, 2 * self.key_depth + self.value_depth, 1, bias=bias)
            self.proj = nn.Conv2d(self.value_depth, attention_channels, 1, bias=bias)
        self.register_parameter("rel_h", None)
        self.register_parameter("rel_w", None)
        if self.value_depth and relative:
            if min(self.max_size) < 1:
                raise ValueError(f"max_size must be at least 1, got {self.max_size}")
            per_head = self.key_depth // num_heads
            self.rel_h = nn.Parameter(torch.empty(2 * self.max_size[0] - 1, per_head))
            self.rel_w = nn.Parameter(torch.empty(2 * self.max_size[1] - 1, per_head))
        self.norm = norm
        self.activation = activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the convolution as ``nn.Conv2d``, projections Xavier, tables with d_k^-0.5.

        With "add", ``proj`` starts at zero.
        """
        if self.weight is not None:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
            if self.bias is not None:
                bound = self.weight[0].numel() ** -0.5
                nn.init.uniform_(self.bias, -bound, bound)
        if self.value_depth:
            for projection in (self.qkv, self.proj):
                nn.init.xavier_uniform_(projection.weight)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)
            if self.merge == "add":
                nn.init.zeros_(self.proj.weight)
        for table in (self.rel_h, self.rel_w):
            if table is not None:
                nn.init.normal_(table, std=table.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        out_size = self._out_size(x)
        maps = []
        if self.weight is not None:
            maps.append(
                F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
            )
        if self.value_depth:
            maps.append(self._attention_maps(x, out_size))
        if len(maps) == 1:
            out = maps[0]
        elif self.merge == "add":
            out = maps[0] + maps[1]
        else:
            out = torch.cat(maps, dim=1)
        if self.norm is not None:
            out = self.norm(out)
        if self.activation is not None:
            out = self.activation(out)
        return out

    def _attention_maps(self, x: Tensor, out_size: tuple[int, int]) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels of proj, H_out, W_out)``."""
        x, valid_size = self._centers(x, out_size)
        if self.stride != (1, 1):
            x, valid_size = _average(x, valid_size, self.stride)
        if self.pool:
            x, valid_size = _average(x, valid_size, (2, 2))

        if self.absolute:
            x = x + sinusoidal_positions(x)
        q, k, v = self.qkv(x).split([self.key_depth, self.key_depth, self.value_depth], dim=1)
        out = relative_attention_2d(
            self._split_heads(q),
            self._split_heads(k),
            self._split_heads(v),
            self.rel_h,
            self.rel_w,
            valid_size=valid_size,
            backend=self.backend,
        )  # (B, heads, H', W', d_v per head)
        out = self.proj(out.permute(0, 1, 4, 2, 3).flatten(1, 2))  # (B, channels, H', W')

        if self.pool:
            if valid_size is not None:
                out = _repeat_edge(out, valid_size)
            # upsample by two and crop, not "to the size": that would stretch an odd map, and an
            # image's maps would depend on how far its batch was padded
            out = F.interpolate(out, scale_factor=2.0, mode="bilinear", align_corners=False)
            # not a slice: its contiguity depends on the size, and a graph exported at one size
            # would reject others
            for dim, size in zip((2, 3), out_size):
                out = out.index_select(dim, torch.arange(size, device=out.device))
        return out

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape ``(B, heads * d, H, W)`` to ``(B, heads, H, W, d)``."""
        return x.unflatten(1, (self.num_heads, -1)).permute(0, 1, 3, 4, 2)

    def _out_size(self, x: Tensor) -> tuple[int, int]:
        settings = zip(x.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation)
        size = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in settings)
        if min(size) < 1:
            raise ValueError(
                f"a map of {tuple(x.shape[-2:])} is smaller than the kernel {self.kernel_size}, "
                f"dilation {self.dilation} and padding {self.padding}"
            )
        return size

    def _centers(self, x: Tensor, out_size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Return the pixels under the kernel centres, before striding, and their real size."""
        top, left = self.first_center
        rows, columns = (n * s for n, s in zip(out_size, self.stride))
        if self.valid_size is None:
            valid_size = None
        else:
            # axis by axis: a tensor of sizes would become a constant of an exported graph
            valid_size = torch.stack(
                [
                    (self.valid_size[:, axis] - first).clamp(0, last)
                    for axis, (first, last) in enumerate(((top, rows), (left, columns)))
                ],
                dim=1,
            )
        return x[:, :, top : top + rows, left : left + columns], valid_size

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, num_heads={self.num_heads}, "
            f"key_depth={self.key_depth}, value_depth={self.value_depth}"
        )
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.rel_h is not None:
            text += f", max_size={self.max_size}"
        if self.absolute:
            text += ", absolute=True"
        if self.pool:
            text += ", pool=True"
        if self.merge != "concat":
            text += f", merge={self.merge}"
        return text


def attention_depths(
    out_channels: int,
    num_heads: int,
    key_ratio: float,
    value_ratio: float,
    min_key_depth_per_head: int = 0,
) -> tuple[int, int]:
    """Return total d_k and d_v of an :class:`AAConv2d`; ``(0, 0)`` for a plain convolution.

    Raises:
        ValueError: as :class:`AAConv2d`; the message begins with the argument's name.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {num_heads}")
    if not 0 <= value_ratio <= 1:
        raise ValueError(f"value_ratio must be between 0 and 1, got {value_ratio}")
    if not 0 < key_ratio <= 1:
        raise ValueError(f"key_ratio must be above 0 and at most 1, got {key_ratio}")
    if min_key_depth_per_head < 0:
        raise ValueError(
            f"min_key_depth_per_head must not be negative, got {min_key_depth_per_head}"
        )
    if value_ratio == 0:
        return 0, 0
    if num_heads > out_channels:
        raise ValueError(
            f"num_heads must be at most out_channels = {out_channels}, got {num_heads}"
        )
    if value_ratio == 1 and out_channels % num_heads:
        raise ValueError(
            f"num_heads must divide out_channels = {out_channels} when value_ratio is 1, "
            f"got {num_heads}"
        )
    # 0.29 * 100 is 28.999…: remove binary rounding errors before flooring
    key_depth_per_head = math.ceil(round(key_ratio * out_channels / num_heads, 9))
    value_depth_per_head = math.floor(round(value_ratio * out_channels / num_heads, 9))
    return (
        max(min_key_depth_per_head, key_depth_per_head) * num_heads,
        max(1, value_depth_per_head) * num_heads,
    )


def _average(
    x: Tensor, valid_size: Tensor | None, stride: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """Apply a strided 3×3 average, which turns each size into ``ceil(size / stride)``.

    The zeros around the map count, so that a map padded with zeros gives the same averages.
    """
    x = F.avg_pool2d(x, 3, stride, padding=1)
    if valid_size is not None:
        step = valid_size.new_tensor(stride)
        valid_size = (valid_size + step - 1) // step
        # an average with an even size leaks into the padding, which a second average would read
        x = x.masked_fill(~real_pixels(valid_size, *x.shape[2:])[:, None], 0)
    return x, valid_size


def _repeat_edge(x: Tensor, valid_size: Tensor) -> Tensor:
    """Replace everything outside each image's real size with the nearest real pixel."""
    for dim in (2, 3):
        last = (valid_size[:, dim - 2] - 1).clamp(min=0)
        index = torch.arange(x.shape[dim], device=x.device).minimum(last[:, None])
        # not len(x), which would become a constant of an exported graph
        shape = [x.shape[0], 1, 1, 1]
        shape[dim] = x.shape[dim]
        x = x.gather(dim, index.view(shape).expand_as(x))
    return x
