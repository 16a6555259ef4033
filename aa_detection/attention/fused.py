"""Exact attention for NVIDIA GPUs: one Triton kernel forward, two backward.

Two float32 products first compute the position terms of all queries. The kernels of
``fused_kernels.py`` add them to logits that never leave the chip. The forward pass saves its output
and one number per query. The backward pass recomputes the logits twice, by queries and by keys, so
that no two programs add to the same gradient.

Both passes are custom operators (``torch.ops.aa_detection``), as in "blocked". Triton is imported
when they first run, not with this module.
"""

import functools
import math
import os
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from .positions import distance_vectors

MOST_CHANNELS = 64  # of a head's keys or values: with more, tiles do not fit in registers


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    scale: float,
    valid_size: Tensor | None,
) -> Tensor:
    """See :func:`aa_detection.attention.relative_attention_2d` for the arguments.

    Differentiable once: a second derivative raises RuntimeError.

    Raises:
        RuntimeError: not on an NVIDIA GPU, float64, too many channels, or no Triton; see
            :func:`objection`.
    """
    reason = objection(q, v)
    if reason is not None:
        raise RuntimeError(f'backend "fused": {reason}')
    dtype = torch.promote_types(q.dtype, torch.promote_types(k.dtype, v.dtype))
    if scale <= 0:  # the kernels take the maximum before they scale
        q, scale = q * scale, 1.0
    height, width = q.shape[2:4]
    # a single zero row, to which all distances are clamped, means no positional term
    rel_h = q.new_zeros(1, q.shape[-1]) if rel_h is None else rel_h
    rel_w = q.new_zeros(1, q.shape[-1]) if rel_w is None else rel_w
    r_h, r_w = distance_vectors(rel_h, height), distance_vectors(rel_w, width)
    if valid_size is not None:
        valid_size = valid_size.to(q.device).contiguous()
    out, _ = _Attention.apply(q.to(dtype), k.to(dtype), v.to(dtype), r_h, r_w, valid_size, scale)
    return out.to(v.dtype)


def objection(q: Tensor, v: Tensor) -> str | None:
    """Return the reason why the kernels cannot be used for q and v, or None."""
    for x in (q, v):
        if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            return f"it computes in float32 and half precision, not in {x.dtype}"
        if x.shape[-1] > MOST_CHANNELS:
            return f"it holds at most {MOST_CHANNELS} channels a head, got {x.shape[-1]}"
    return _missing(q.device.type, q.device.index)


@torch.compiler.assume_constant_result
def _missing(device: str, index: int | None) -> str | None:
    return _look(device, index)


@functools.cache
def _look(device: str, index: int | None) -> str | None:
    """Return the reason why the kernels cannot run on this machine, or None."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None  # Triton's interpreter, for debugging kernels, runs on any device
    if device != "cuda" or torch.version.cuda is None:
        return f"it runs on NVIDIA GPUs, q is on {device}"
    if torch.cuda.get_device_capability(index) < (8, 0):
        return "it runs on GPUs of compute capability 8.0 and newer"
    try:
        from triton.runtime import driver

        driver.active.get_current_device()  # compiles the driver: needs a C compiler and Python.h
    except Exception as error:  # a broken installation can raise anything
        line, _, _ = str(error).partition("\n")
        return f"Triton does not run here: {type(error).__name__}: {line}"
    return None


# Tiles of each kernel, keyed by the element size in bytes and the most channels of a key and a
# value together: {columns: queries}. They are about the largest that spill no registers on GPUs of
# compute capability 8.0 to 9.0, according to the compiler; they were not timed.
TILES: dict[str, dict[tuple[int, int], dict[int, int]]] = {
    "forward": {
        (2, 48): {64: 64, 32: 64, 16: 64},
        (2, 128): {32: 64, 16: 64},
        (4, 48): {32: 32, 16: 64},
        (4, 128): {16: 32},
    },
    "backward_queries": {
        (2, 48): {32: 64, 16: 64},
        (2, 128): {16: 64},
        (4, 48): {16: 64},
        (4, 128): {16: 16},
    },
    "backward_keys": {
        (2, 48): {64: 32, 32: 32, 16: 64},
        (2, 128): {32: 32, 16: 64},
        (4, 48): {16: 32},
        (4, 128): {16: 32},
    },
}
STEP = 24  # assumed overhead of a loop iteration, in columns


class Tile(NamedTuple):
    """The queries and key columns that one program of a kernel processes at a time."""

    queries: int
    columns: int  # of one key row


def tile(kernel: str, width: int, channels: int, element_size: int) -> Tile:
    """Return the tile that cuts a map's rows into the fewest and fullest pieces.

    Args:
        kernel: its name in ``fused_kernels.py``.
        width: of the map.
        channels: of a key and a value together, each rounded up to a power of two.
        element_size: in bytes.
    """
    tiles = TILES[kernel][element_size, 48 if channels <= 48 else 128]
    columns = min(tiles, key=lambda columns: -(-width // columns) * (columns + STEP))
    return Tile(tiles[columns], columns)


# r_h is (H, H, d_k) and r_w is (W, W, d_k): the distance vectors, indexed [query, key].


@torch.library.custom_op(
    "aa_detection::fused_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor r_h, Tensor r_w, Tensor? valid_size, "
    "float scale) -> (Tensor, Tensor)",
)
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r_h: Tensor,
    r_w: Tensor,
    valid_size: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    batch, heads, height, width, _ = q.shape
    # the kernel does not write padded pixels: they stay zero
    out = v.new_zeros(v.shape)
    lse = q.new_zeros(batch, heads, height * width, dtype=torch.float32)
    if out.numel():
        with torch.autocast(q.device.type, enabled=False):
            terms = _position_terms(q, r_h, r_w)
            inputs = (_aligned_rows(q), _aligned_rows(k), _aligned_rows(v), *terms, valid_size)
            _run("forward", (*inputs, out, lse), q, v, _log2e(scale))
    return out, lse


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: Tensor | float | None) -> tuple[Tensor, Tensor]:
    batch, heads, height, width, _ = q.shape
    lse = q.new_empty(batch, heads, height * width, dtype=torch.float32)
    return v.new_empty(v.shape), lse


@torch.library.custom_op(
    "aa_detection::fused_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, Tensor r_h, "
    "Tensor r_w, Tensor? valid_size, float scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r_h: Tensor,
    r_w: Tensor,
    valid_size: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_q = q.new_zeros(q.shape, dtype=torch.float32)
    grad_k, grad_v, grad_r_h, grad_r_w = (x.new_zeros(x.shape) for x in (k, v, r_h, r_w))
    if not out.numel():
        return grad_q.to(q.dtype), grad_k, grad_v, grad_r_h, grad_r_w
    width = q.shape[3]
    with torch.autocast(q.device.type, enabled=False):
        rows, columns = terms = _position_terms(q, r_h, r_w)
        inputs = (_aligned_rows(q), _aligned_rows(k), _aligned_rows(v), *terms, valid_size)
        grad = _aligned_rows(grad)
        delta, grad_rows, grad_columns = (torch.zeros_like(x) for x in (lse, rows, columns))
        _run(
            "backward_queries",
            (grad, out, lse, *inputs, delta, grad_q, grad_rows, grad_columns),
            q,
            v,
            _log2e(scale),
        )
        _run(
            "backward_keys", (grad, lse, delta, *inputs, grad_k, grad_v), q, v, _log2e(scale), scale
        )
        del rows, columns, terms, inputs
        # the transpose of _position_terms
        grad_columns = grad_columns[..., :width]
        grad_q += torch.einsum("bhjix,ijd->bhixd", grad_rows, r_h.float())
        grad_q += torch.einsum("bhixy,xyd->bhixd", grad_columns, r_w.float())
        grad_q *= scale
        grad_r_h += (scale * torch.einsum("bhjix,bhixd->ijd", grad_rows, q.float())).to(r_h.dtype)
        grad_r_w += (scale * torch.einsum("bhixy,bhixd->xyd", grad_columns, q.float())).to(
            r_w.dtype
        )
    return grad_q.to(q.dtype), grad_k, grad_v, grad_r_h, grad_r_w


@_backward.register_fake
def _(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r_h: Tensor,
    r_w: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (q, k, v, r_h, r_w))


class _Attention(torch.autograd.Function):
    """Wrap the two operators as one differentiable function, for autograd and ``torch.func``."""

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        r_h: Tensor,
        r_w: Tensor,
        valid_size: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return _forward(q, k, v, r_h, r_w, valid_size, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        return (*_AttentionBackward.apply(grad, *ctx.saved_tensors, ctx.scale), None, None)


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad: Tensor,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        r_h: Tensor,
        r_w: Tensor,
        valid_size: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, ...]:  # arguments by name: torch.compile counts them to detect a ctx
        return _backward(grad, out, lse, q, k, v, r_h, r_w, valid_size, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(
            'relative_attention_2d: backend "fused" has no second derivative; use backend="dense"'
        )


def _position_terms(q: Tensor, r_h: Tensor, r_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(B, h, H, H, W)``, key row first, and ``(B, h, H, W, W rounded up to fours)``."""
    q = q.float()
    r_w = F.pad(r_w.float(), (0, 0, 0, -r_w.shape[1] % 4))
    rows = torch.einsum("bhixd,ijd->bhjix", q, r_h.float())
    columns = torch.einsum("bhixd,xyd->bhixy", q, r_w)
    return rows.contiguous(), columns.contiguous()


def _aligned_rows(x: Tensor) -> Tensor:
    """Pad the channels of `x` so that each pixel starts at a multiple of 16 bytes."""
    return F.pad(x, (0, -x.shape[-1] % (16 // x.element_size()))).contiguous()


def _log2e(scale: float) -> float:
    return scale / math.log(2)


def _run(
    name: str, arrays: tuple[Tensor | None, ...], q: Tensor, v: Tensor, *scales: float
) -> None:
    from . import fused_kernels

    batch, heads, height, width, d_k = q.shape
    d_v = v.shape[-1]
    pad_k, pad_v = (max(16, 1 << (d - 1).bit_length()) for d in (d_k, d_v))
    alignment = 16 // q.element_size()
    queries, columns = tile(name, width, pad_k + pad_v, q.element_size())
    if name == "backward_keys":
        programs = height * -(-width // columns)
    else:
        programs = -(-height * width // queries)
    constants = {
        "D_K": d_k,
        "D_V": d_v,
        "ROW_K": d_k + -d_k % alignment,
        "ROW_V": d_v + -d_v % alignment,
        "PAD_K": pad_k,
        "PAD_V": pad_v,
        "BLOCK_Q": queries,
        "BLOCK_X": columns,
        "PRECISION": "tf32x3",  # of float32 products; Triton's default is tf32
    }
    kernel = getattr(fused_kernels, name)
    with torch.cuda.device_of(q):
        kernel[(batch * heads * programs,)](
            *arrays,
            heads,
            height,
            width,
            -(-width // 4),
            *scales,
            **constants,
            num_warps=4,
            num_stages=2,
            maxnreg=255,  # all there are; else a few are spilled to fit a second block
            enable_fp_fusion=True,
        )
