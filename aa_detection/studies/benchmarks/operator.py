"""Benchmark of the operator: every backend, plain attention as the floor, and timm's layer."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attention import relative_attention_2d
from ...attention.functional import BACKENDS
from ..timing import Case, in_fresh_process, peak_memory, spinning, take_turns
from .rows import Row, by_size, map_size

HEADS = 8
# key and value channels a head in res4 of AA-RetinaNet-R50, and of AA-ResNet-50 on ImageNet
DEPTHS = ((7, 3), (20, 3))
FLOOR = "plain attention"
TIMM, AUTO_LAYER, FLEX = "timm BottleneckAttn", "auto as such a layer", "FlexAttention"
# these store all logits several times, 9 GB a copy at 100x168
MATERIALISES, MOST_TOKENS = ("dense", TIMM), 5000
# takes minutes at these sizes on a CPU, whose fused attention is no faster for wide channels
SLOW_ON_CPU = "folded"
LOGITS_STD = (1, 10, 30, 100)
SIZES = ((10, 10), (20, 20), (25, 42), (40, 40), (50, 84), (100, 168))


def attention_case(
    name: str,
    height: int,
    width: int,
    depths: tuple[int, int],
    std: float,
    batch: int,
    device: str,
    dtype: torch.dtype,
) -> Case:
    """Return `name` at one size, with random inputs whose logits have standard deviation `std`."""
    key_depth, value_depth = depths
    torch.manual_seed(0)
    make: dict[str, Any] = {"device": device, "dtype": dtype, "requires_grad": True}
    if name in (TIMM, AUTO_LAYER):
        return layer_case(name, torch.randn(batch, 64, height, width, **make), depths)

    # without position terms the logits' variance is that of q
    variance = 1 if name == FLOOR else 3
    q = torch.randn(batch, HEADS, height, width, key_depth, device=device) * std / variance**0.5
    q = q.to(dtype).requires_grad_()
    k = torch.randn(batch, HEADS, height, width, key_depth, **make)
    if name == FLOOR:
        # as wide as q and k; otherwise PyTorch does not use its fused kernel
        v = torch.randn(batch, HEADS, height * width, key_depth, **make)
        q, k = (x.detach().flatten(2, 3).requires_grad_() for x in (q, k))
        return differentiable(F.scaled_dot_product_attention, q, k, v)
    v = torch.randn(batch, HEADS, height, width, value_depth, **make)
    rel_h = torch.randn(2 * height - 1, key_depth, **make)
    rel_w = torch.randn(2 * width - 1, key_depth, **make)
    if name == FLEX:
        return differentiable(flex_attention(), q, k, v, rel_h, rel_w)

    def attention(*inputs: Tensor) -> Tensor:
        return relative_attention_2d(*inputs, backend=name)

    return differentiable(attention, q, k, v, rel_h, rel_w)


def differentiable(function: Callable[..., Tensor], *inputs: Tensor) -> Case:
    """Return a case that computes a function, and on request the gradients of its inputs."""

    def case(backward: bool) -> None:
        if backward:
            out = function(*inputs)
            torch.autograd.grad(out, inputs, torch.ones_like(out))
        else:
            with torch.no_grad():
                function(*inputs)

    return case


def layer_case(name: str, x: Tensor, depths: tuple[int, int]) -> Case:
    """Return a layer on 64 channels with its 1x1 convolution for q, k and v."""
    channels, height, width = x.shape[1:]
    options: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
    if name == TIMM:
        from timm.layers.bottleneck_attn import BottleneckAttn

        key_depth, value_depth = depths
        size = height, width
        options |= {"num_heads": HEADS, "dim_head": key_depth}
        layer = BottleneckAttn(channels, HEADS * value_depth, size, **options)
    else:
        layer = AutoLayer(channels, height, width, *depths).to(**options)
    parameters = list(layer.parameters())
    return differentiable(lambda x, *_: layer(x), x, *parameters)


class AutoLayer(nn.Module):
    """The computation of timm's layer on our operator, for maps of any size."""

    def __init__(
        self, channels: int, max_h: int, max_w: int, key_depth: int, value_depth: int
    ) -> None:
        super().__init__()
        self.depths = [HEADS * key_depth, HEADS * key_depth, HEADS * value_depth]
        self.qkv = nn.Conv2d(channels, sum(self.depths), 1, bias=False)
        self.rel_h = nn.Parameter(key_depth**-0.5 * torch.randn(2 * max_h - 1, key_depth))
        self.rel_w = nn.Parameter(key_depth**-0.5 * torch.randn(2 * max_w - 1, key_depth))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).split(self.depths, dim=1)
        q, k, v = (x.unflatten(1, (HEADS, -1)).permute(0, 1, 3, 4, 2) for x in qkv)
        out = relative_attention_2d(q, k, v, self.rel_h, self.rel_w)
        return out.permute(0, 1, 4, 2, 3).flatten(1, 2)


def flex_attention() -> Callable[..., Tensor]:
    """Return PyTorch's compiled attention with the position terms added to its logits."""
    from torch.nn.attention.flex_attention import flex_attention

    # Any: in some releases the return type includes optional extra outputs
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)

    def attention(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        height, width = q.shape[2:4]
        row, column = (torch.arange(n, device=q.device) for n in (height, width))
        r_h = rel_h[row[None, :] - row[:, None] + height - 1]
        r_w = rel_w[column[None, :] - column[:, None] + width - 1]
        scaled = q * q.shape[-1] ** -0.5
        bias_h = torch.einsum("bhixd,ijd->bhixj", scaled, r_h).flatten(2, 3)
        bias_w = torch.einsum("bhixd,xyd->bhixy", scaled, r_w).flatten(2, 3)

        def add_positions(
            logit: Tensor, image: Tensor, head: Tensor, query: Tensor, key: Tensor
        ) -> Tensor:
            at_row, at_column = key // width, key % width
            return (
                logit + bias_h[image, head, query, at_row] + bias_w[image, head, query, at_column]
            )

        value_depth = v.shape[-1]
        q, k, v = (x.flatten(2, 3) for x in (q, k, F.pad(v, (0, 16 - value_depth))))
        return compiled(q, k, v, score_mod=add_positions)[..., :value_depth]

    return attention


def measure(
    sizes: Sequence[tuple[int, int]], *, batch: int, device: str, dtype: str, busy: int
) -> Iterator[list[Row]]:
    """Yield, for every map size, a row for each depth, implementation and standard deviation.

    `busy` spinning processes run while times are measured.
    """
    for height, width in sizes:
        backends = [name for name in BACKENDS if works_on(name, device)]
        names = [FLOOR, *backends, TIMM, AUTO_LAYER] + ([FLEX] if device != "cpu" else [])
        if height * width > MOST_TOKENS:
            left_out = [*MATERIALISES] + ([SLOW_ON_CPU] if device == "cpu" else [])
            names = [name for name in names if name not in left_out]
        kinds = [(name, LOGITS_STD[0]) for name in names]
        kinds += [("auto", std) for std in LOGITS_STD]
        rows = []
        for depths in DEPTHS:
            problem = height, width, depths, batch, device, dtype
            with spinning(busy):
                times = in_fresh_process(times_of, kinds, *problem)
            for name, std in kinds:
                row: Row = {"name": name, "height": height, "width": width, "logits_std": std}
                row |= {"key_depth": depths[0], "value_depth": depths[1]}
                row |= times[name, std]
                if std == LOGITS_STD[0]:
                    row |= in_fresh_process(memory_of, name, *problem)
                rows.append(row)
        yield rows


def works_on(backend: str, device: str) -> bool:
    """Whether a backend is available on this machine and supports the device."""
    try:
        attention_case(backend, 2, 3, DEPTHS[0], 1.0, 1, device, torch.float32)(False)
    except RuntimeError:
        return False
    return True


def times_of(
    kinds: list[tuple[str, float]],
    height: int,
    width: int,
    depths: tuple[int, int],
    batch: int,
    device: str,
    dtype: str,
) -> dict[tuple[str, float], dict[str, float]]:
    """Measure milliseconds of each implementation and standard deviation."""
    options = batch, device, getattr(torch, dtype)
    cases = {
        (name, std): attention_case(name, height, width, depths, std, *options)
        for name, std in kinds
    }
    return take_turns(cases, device)


def memory_of(
    name: str,
    height: int,
    width: int,
    depths: tuple[int, int],
    batch: int,
    device: str,
    dtype: str,
) -> dict[str, float]:
    """Measure peak megabytes of one implementation."""
    options = batch, device, getattr(torch, dtype)
    for backward in (False, True):
        # warm up PyTorch's one-time allocations
        attention_case(name, 12, 12, depths, 1.0, *options)(backward)
    return peak_memory(attention_case(name, height, width, depths, 1.0, *options), device)


def table(rows: list[Row]) -> str:
    """Format the figures as text, size by size."""
    lines = [
        f"{HEADS} heads; d: key and value channels a head.",
        "Milliseconds and, in brackets, times plain attention (SDPA without positions) of the same",
        "size; megabytes over the inputs. A layer includes its 1x1 convolution of 64 channels.",
        "",
        f"{'map':>7} {'d':>5}  {'':22}{'forward':>18}{'+ backward':>19}"
        f"{'MB forward':>12}{'+ backward':>12}",
    ]
    for group in by_problem(rows):
        normal = [row for row in group if row["logits_std"] == LOGITS_STD[0]]
        floor = next(row for row in normal if row["name"] == FLOOR)
        for row in normal:
            line = f"{map_size(row):>7} {depths_of(row):>5}  {row['name']:22}"
            for key, columns in (("forward_ms", 18), ("forward_backward_ms", 19)):
                ratio = f"({row[key] / floor[key]:.2f})"
                line += f"{row[key]:{columns - 9}.2f} {ratio:>8}"
            lines.append(line + f"{row['forward_mb']:12.1f}{row['forward_backward_mb']:12.1f}")
        lines.append("")
    lines += [
        "auto by the standard deviation of the logits: milliseconds, and times those of the first",
        "",
        f"{'map':>7} {'d':>5}  " + "".join(f"{f'{std:g} forward':>18}" for std in LOGITS_STD),
        f"{'':7} {'':5}  " + "".join(f"{'+ backward':>18}" for _ in LOGITS_STD),
    ]
    for group in by_problem(rows):
        auto = [row for row in group if row["name"] == "auto"]
        label = f"{map_size(auto[0]):>7} {depths_of(auto[0]):>5}"
        for text, key in ((label, "forward_ms"), ("", "forward_backward_ms")):
            line = f"{text:13}  "
            for row in auto:
                line += f"{row[key]:9.2f} {f'({row[key] / auto[0][key]:.2f})':>8}"
            lines.append(line)
    return "\n".join(lines)


def by_problem(rows: list[Row]) -> list[list[Row]]:
    """Group the rows by size and depths."""
    return [
        [row for row in group if (row["key_depth"], row["value_depth"]) == depths]
        for group in by_size(rows)
        for depths in DEPTHS
    ]


def depths_of(row: Row) -> str:
    """Format the depths as in the table."""
    return f"{row['key_depth']}, {row['value_depth']}"


def plot(rows: list[Row], path: Path) -> None:
    """Plot time and memory, forward and backward, against the number of tokens, on log axes.

    Plots the last pair of depths.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    for axes, key, label, power in (
        (panels[0], "forward_backward_ms", "forward and backward, ms", 2),
        (panels[1], "forward_backward_mb", "peak memory over the inputs, MB", 1),
    ):
        normal = [
            row
            for row in rows
            if row["logits_std"] == LOGITS_STD[0]
            and (row["key_depth"], row["value_depth"]) == DEPTHS[-1]
        ]
        for name in dict.fromkeys(row["name"] for row in normal if row["name"] != "auto"):
            points = [
                (row["height"] * row["width"], row[key]) for row in normal if row["name"] == name
            ]
            style = "k--" if name == FLOOR else "o-"
            axes.plot(*zip(*points), style, label=name, markersize=4)
        tokens, values = zip(
            *((row["height"] * row["width"], row[key]) for row in normal if row["name"] == "auto")
        )
        guide = [values[-1] / 2 * (n / tokens[-1]) ** power for n in tokens]
        (line,) = axes.plot(tokens, guide, color="0.8", linewidth=6, zorder=0)
        guides = axes.legend([line], [f"tokens ** {power}"], loc="lower right")
        axes.add_artist(guides)
        axes.set(xscale="log", yscale="log", xlabel="tokens (height x width)", ylabel=label)
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=120)
