"""Record what every head of every augmented layer attends to in an image.

One forward pass stores the layers' queries, keys and distance tables. The maps of a query point are
computed from them on demand, for that point only.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..attention import attention_at
from ..layers import AAConv2d

Size = tuple[int, int]  # rows, columns


class NoAttentionError(ValueError):
    """The network has no augmented convolution."""


@dataclass(frozen=True)
class LayerAttention:
    """One augmented layer's attention in one image.

    The layer attends on a grid over the image, at half the resolution of its maps if it pools. The
    grid points are the centres of the receptive fields: in a ResNet, every `stride`-th pixel of the
    network's input, from the first.

    Attributes:
        name: of the module in the network.
        picture_size: rows and columns of the image.
        q, k: ``(heads, H, W, d_k)``.
        rel_h, rel_w: the layer's distance tables, or None.
        origin, step: position of the first grid point in the image and distance to the next, as
            ``(y, x)`` in pixels of the image, whose first pixel has its centre at 0.5.
    """

    name: str
    picture_size: Size
    q: Tensor
    k: Tensor
    rel_h: Tensor | None
    rel_w: Tensor | None
    origin: tuple[float, float]
    step: tuple[float, float]

    @property
    def label(self) -> str:
        """Return a short name: ``res4.2`` for ``backbone.bottom_up.res4.2.conv2``."""
        block = re.search(r"(?:res|layer)\d\.\d+", self.name)
        return block[0] if block else self.name

    @property
    def size(self) -> Size:
        """Rows and columns of the grid."""
        return self.q.shape[1], self.q.shape[2]

    def grid_points(self, points: Sequence[tuple[float, float]]) -> Tensor:
        """Return ``(n, 2)``: row and column of the grid point nearest to each ``(x, y)``."""
        places = torch.tensor([(y, x) for x, y in points], dtype=torch.float64).reshape(-1, 2)
        places = (places - torch.tensor(self.origin)) / torch.tensor(self.step)
        return (places + 0.5).floor().long().clamp(min=0).minimum(torch.tensor(self.size) - 1)

    def maps(self, points: Sequence[tuple[float, float]]) -> Tensor:
        """Return ``(heads, n, H, W)`` weights of the grid points nearest to each ``(x, y)``."""
        grid_points = self.grid_points(points).to(self.q.device)
        tables = self.rel_h, self.rel_w
        return attention_at(self.q[None], self.k[None], *tables, grid_points)[0]

    def spread(self, maps: Tensor, size: Size | None = None) -> Tensor:
        """Interpolate maps ``(…, H, W)`` bilinearly to ``(…, *size)`` over the image.

        Args:
            size: rows and columns at which to draw the image; default, its own.
        """
        vertical, horizontal = (
            _interpolation(n, picture / n, origin, step, grid)
            for n, picture, origin, step, grid in zip(
                size or self.picture_size, self.picture_size, self.origin, self.step, self.size
            )
        )
        return vertical.to(maps) @ maps @ horizontal.to(maps).T


@dataclass(frozen=True)
class PictureAttention:
    """Attention of every augmented layer in one image, in the order of execution."""

    picture_size: Size
    layers: list[LayerAttention]

    def maps(self, points: Sequence[tuple[float, float]]) -> list[Tensor]:
        """Return ``(heads, n, H, W)`` of each layer; points are ``(x, y)`` in image pixels.

        Raises:
            ValueError: a point is outside the image.
        """
        height, width = self.picture_size
        for x, y in points:
            if not (0 <= x <= width and 0 <= y <= height):
                raise ValueError(
                    f"point ({x:g}, {y:g}) is outside the picture, {width} x {height} pixels"
                )
        return [layer.maps(points) for layer in self.layers]


class AttentionRecord:
    """Data that :func:`record_attention` stores from the forward pass of one batch."""

    def __init__(self) -> None:
        self.batch_size: Size | None = None  # of the padded batch that the network received
        self.layers: dict[str, tuple[AAConv2d, Tensor, Tensor | None]] = {}

    def of_picture(
        self, index: int = 0, *, picture_size: Size | None = None, input_size: Size | None = None
    ) -> PictureAttention:
        """Return the attention in one image of the batch.

        Args:
            index: position of the image in the batch.
            input_size: rows and columns of the image in the batch, without padding; default, all.
            picture_size: rows and columns before resizing, the coordinates of points; default,
                `input_size`.

        Raises:
            ValueError: nothing was recorded, or a layer's grid does not match any stride.
        """
        if self.batch_size is None or not self.layers:
            raise ValueError("no forward pass was recorded: run the network inside the block")
        input_size = input_size or self.batch_size
        picture_size = picture_size or input_size
        scale = [picture / own for picture, own in zip(picture_size, input_size)]
        layers = []
        for name, (module, queries_and_keys, valid_size) in self.layers.items():
            grid = _size(queries_and_keys)
            stride = _stride(name, self.batch_size, grid)
            if valid_size is not None:
                rows, columns = valid_size[index].tolist()  # padding has no weight
                queries_and_keys = queries_and_keys[:, :, :rows, :columns]
            q, k = queries_and_keys[index].unflatten(0, (2, module.num_heads, -1)).movedim(2, -1)
            rel_h, rel_w = (t if t is None else t.detach() for t in (module.rel_h, module.rel_w))
            layers.append(
                LayerAttention(
                    name,
                    picture_size,
                    q,
                    k,
                    rel_h=rel_h,
                    rel_w=rel_w,
                    origin=(0.5 * scale[0], 0.5 * scale[1]),
                    step=(stride * scale[0], stride * scale[1]),
                )
            )
        return PictureAttention(picture_size, layers)


@contextmanager
def record_attention(network: nn.Module) -> Iterator[AttentionRecord]:
    """Record the attention of the forward pass that runs inside the ``with`` block.

    Only the queries and keys of each layer are kept::

        with record_attention(classifier) as record:
            classifier(batch)
        maps = record.of_picture(0).maps([(x, y)])

    Args:
        network: any module that contains an :class:`aa_detection.AAConv2d`.

    Raises:
        NoAttentionError: it contains none.
        ValueError: more than one forward pass ran.
    """
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, AAConv2d) and module.value_depth
    ]
    if not layers:
        raise NoAttentionError("the network has no augmented convolution (AAConv2d) to look into")
    record = AttentionRecord()
    hooks = [
        module.qkv.register_forward_hook(partial(_keep, record, name, module))
        for name, module in layers
    ]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_pre_hook(partial(_note_size, record)))
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


def _note_size(record: AttentionRecord, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if record.batch_size is None:  # the first convolution receives the batch
        record.batch_size = _size(args[0])


def _keep(
    record: AttentionRecord,
    name: str,
    layer: AAConv2d,
    module: nn.Module,
    args: tuple[Tensor, ...],
    out: Tensor,
) -> None:
    if name in record.layers:
        raise ValueError(f"{name} ran twice: record one forward pass at a time")
    # a copy, so that the memory of the values can be freed
    queries_and_keys = out.detach()[:, : 2 * layer.key_depth].clone()
    valid_size = layer.valid_size
    if valid_size is not None:
        step = valid_size.new_tensor(layer.stride) * (2 if layer.pool else 1)
        valid_size = (valid_size + step - 1) // step
    record.layers[name] = layer, queries_and_keys, valid_size


def _size(maps: Tensor) -> Size:
    height, width = maps.shape[-2:]
    return height, width


def _stride(name: str, image: Size, grid: Size) -> int:
    """Return the grid's stride in the image: a stride-2 layer makes ``ceil(n / 2)`` of n pixels."""
    for stride in (2**power for power in range(math.ceil(math.log2(max(image))) + 1)):
        if all(math.ceil(n / stride) == m for n, m in zip(image, grid)):
            return stride
    raise ValueError(f"{name}: no stride makes its grid of {grid} of an input of {image}")


def _interpolation(n: int, pixel: float, origin: float, step: float, grid: int) -> Tensor:
    """Return ``(n, grid)`` weights that interpolate n pixels, each `pixel` image pixels wide.

    Beyond the outermost grid points, the values of those points apply.
    """
    place = ((torch.arange(n) + 0.5) * pixel - origin) / step
    place = place.clamp(0, grid - 1)
    before = place.floor().long().clamp(max=max(grid - 2, 0))
    share = place - before
    weights = torch.zeros(n, grid)
    weights.scatter_(1, before[:, None], 1 - share[:, None])
    weights.scatter_add_(1, (before[:, None] + 1).clamp(max=grid - 1), share[:, None])
    return weights
