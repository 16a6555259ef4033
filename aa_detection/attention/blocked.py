"""Exact attention in linear memory: one block of logits at a time, recomputed in the backward pass.

A block holds the logits of a few query pixels (on small maps, of a few heads), few enough to stay
in the caches of the cores that work on it. The forward pass saves only its output, as in Dao et
al., *FlashAttention*, NeurIPS 2022, section 3.1. Unlike FlashAttention, a block holds all keys of
its queries, so the softmax needs no running maximum.

Both passes are custom operators (``torch.ops.aa_detection``): ``torch.compile`` and
``torch.export`` see one node and do not unroll the loop.
"""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NoReturn

import torch
from torch import Tensor

from .positions import distance_vectors

LOGITS_PER_THREAD = 2**18  # 1 MB of float32: the second-level cache of a core
LOGITS_PER_DEVICE = 2**24  # for devices without CPU threads: 64 MB of float32


def blocked_attention(
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
    """
    height, width = q.shape[2:4]
    # a single zero row, to which all distances are clamped, means no positional term
    rel_h = q.new_zeros(1, q.shape[-1]) if rel_h is None else rel_h
    rel_w = q.new_zeros(1, q.shape[-1]) if rel_w is None else rel_w
    r_h, r_w = distance_vectors(rel_h, height), distance_vectors(rel_w, width)
    return _Attention.apply(q, k, v, r_h, r_w, valid_size, scale)


# r_h is (H, H, d_k) and r_w is (W, W, d_k): the distance vectors, indexed [query, key].


@torch.library.custom_op(
    "aa_detection::blocked_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor r_h, Tensor r_w, Tensor? valid_size, "
    "float scale) -> Tensor",
)
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r_h: Tensor,
    r_w: Tensor,
    valid_size: Tensor | None,
    scale: float,
) -> Tensor:
    out = v.new_zeros(v.shape)
    with torch.autocast(q.device.type, enabled=False):
        for images, height, width in _images_of_one_size(q, valid_size):
            real = (images, slice(None), slice(height), slice(width))
            r_h_, r_w_ = r_h[:height, :height], r_w[:width, :width]
            out[real] = _forward_real(q[real], k[real], v[real], r_h_, r_w_, scale)
    return out


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: Tensor | float | None) -> Tensor:
    return v.new_empty(v.shape)


@torch.library.custom_op(
    "aa_detection::blocked_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor out, Tensor q, Tensor k, Tensor v, Tensor r_h, Tensor r_w, "
    "Tensor? valid_size, float scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Tensor,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r_h: Tensor,
    r_w: Tensor,
    valid_size: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = (x.new_zeros(x.shape) for x in (q, k, v))
    # table gradients are summed over images, so they must not be in half precision
    grad_r_h, grad_r_w = (x.new_zeros(x.shape, dtype=_logits_dtype(q)) for x in (r_h, r_w))
    with torch.autocast(q.device.type, enabled=False):
        for images, height, width in _images_of_one_size(q, valid_size):
            real = (images, slice(None), slice(height), slice(width))
            rows, columns = (slice(height), slice(height)), (slice(width), slice(width))
            grads = _backward_real(
                grad[real], out[real], q[real], k[real], v[real], r_h[rows], r_w[columns], scale
            )
            grad_q[real], grad_k[real], grad_v[real] = grads[:3]
            grad_r_h[rows] += grads[3]
            grad_r_w[columns] += grads[4]
    return grad_q, grad_k, grad_v, grad_r_h.to(r_h.dtype), grad_r_w.to(r_w.dtype)


@_backward.register_fake
def _(
    grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, r_h: Tensor, r_w: Tensor, *_: Any
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
    ) -> Tensor:
        return _forward(q, k, v, r_h, r_w, valid_size, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(output, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_AttentionBackward.apply(grad, *ctx.saved_tensors, ctx.scale), None, None)


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad: Tensor,
        out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        r_h: Tensor,
        r_w: Tensor,
        valid_size: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, ...]:  # arguments by name: torch.compile counts them to detect a ctx
        return _backward(grad, out, q, k, v, r_h, r_w, valid_size, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(
            'relative_attention_2d: backend "blocked" has no second derivative; use backend="dense"'
        )


def _images_of_one_size(q: Tensor, valid_size: Tensor | None) -> Iterator[tuple[slice, int, int]]:
    """Yield runs of images with the same real size, skipping images without real pixels.

    Cropping to the real pixels replaces the padding mask and saves the work on padding.
    """
    if valid_size is None:
        yield slice(len(q)), q.shape[2], q.shape[3]
        return
    sizes = valid_size.clamp(max=valid_size.new_tensor(q.shape[2:4])).tolist()
    start = 0
    for (height, width), run in groupby(sizes):
        images = slice(start, start + len(list(run)))
        start = images.stop
        if height > 0 and width > 0:
            yield images, height, width


# ---- without padding; pixels are numbered in row-major order, batch and heads share a dimension --
# q and out are (heads, pixels, channels). k and v are (heads, channels, pixels), the fastest layout
# for matrix products with few channels.


def _forward_real(
    q: Tensor, k: Tensor, v: Tensor, r_h: Tensor, r_w: Tensor, scale: float
) -> Tensor:
    shape = v.shape
    q, k, v, r_h, r_w = _arrange(q, k, v, r_h, r_w, scale)
    out = q.new_empty(v.mT.shape)
    for heads, blocks in _blocks(q):
        bias_h, bias_w = _biases(q[heads], r_h, r_w)
        buffer = _buffer(q, heads, blocks)
        for rows in blocks:
            weights = buffer[:, : rows.stop - rows.start]
            _softmax(q[heads, rows], k[heads], bias_h[:, rows], bias_w[:, rows], out=weights)
            torch.bmm(weights, v[heads].mT, out=out[heads, rows])
    return out.view(shape)


def _backward_real(
    grad: Tensor,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r_h: Tensor,
    r_w: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, n_heads, height, width, _ = q.shape
    q, k, v, r_h, r_w = _arrange(q, k, v, r_h, r_w, scale)
    grad, out = _pixels_by_channels(grad, q.dtype), _pixels_by_channels(out, q.dtype)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    grad_r_h, grad_r_w = torch.zeros_like(r_h), torch.zeros_like(r_w)

    # grad_logits = weights * (grad·v - grad·out); one matrix product computes the difference
    grad_out = torch.cat([grad, -(grad * out).sum(-1, keepdim=True)], -1)
    v_one = torch.cat([v, torch.ones_like(v[:, :1])], 1)

    for heads, blocks in _blocks(q):
        bias_h, bias_w = _biases(q[heads], r_h, r_w)
        grad_bias_h, grad_bias_w = torch.empty_like(bias_h), torch.empty_like(bias_w)
        weights_buffer, grad_buffer = _buffer(q, heads, blocks), _buffer(q, heads, blocks)
        for rows in blocks:
            weights = weights_buffer[:, : rows.stop - rows.start]
            _softmax(q[heads, rows], k[heads], bias_h[:, rows], bias_w[:, rows], out=weights)
            grad_v[heads].baddbmm_(grad[heads, rows].mT, weights)
            grad_logits = grad_buffer[:, : rows.stop - rows.start]
            torch.bmm(grad_out[heads, rows], v_one[heads], out=grad_logits).mul_(weights)
            grad_k[heads].baddbmm_(q[heads, rows].mT, grad_logits)
            grad_q[heads, rows] = torch.bmm(k[heads], grad_logits.mT).mT
            grad_logits = grad_logits.unflatten(-1, (height, width))
            torch.sum(grad_logits, -1, out=grad_bias_h[:, rows])
            torch.sum(grad_logits, -2, out=grad_bias_w[:, rows])
        # the transpose of _biases
        g_h, g_w = (g.unflatten(1, (height, width)) for g in (grad_bias_h, grad_bias_w))
        q_map, grad_q_map = (x[heads].unflatten(1, (height, width)) for x in (q, grad_q))
        grad_q_map += torch.einsum("gixj,ijd->gixd", g_h, r_h)
        grad_q_map += torch.einsum("gixy,xyd->gixd", g_w, r_w)
        grad_r_h += torch.einsum("gixj,gixd->ijd", g_h, q_map)
        grad_r_w += torch.einsum("gixy,gixd->xyd", g_w, q_map)

    def to_map(x: Tensor) -> Tensor:
        return x.unflatten(0, (batch, n_heads)).unflatten(2, (height, width))

    grad_q = to_map(grad_q.mul_(scale))
    return grad_q, to_map(grad_k.mT), to_map(grad_v.mT), grad_r_h, grad_r_w


def _logits_dtype(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _arrange(
    q: Tensor, k: Tensor, v: Tensor, r_h: Tensor, r_w: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Convert to the layouts and dtype of the logits and multiply q by the scale."""
    dtype = _logits_dtype(q)
    return (
        _pixels_by_channels(q, dtype) * scale,
        _pixels_by_channels(k, dtype).mT.contiguous(),
        _pixels_by_channels(v, dtype).mT.contiguous(),
        r_h.to(dtype),
        r_w.to(dtype),
    )


def _pixels_by_channels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Reshape ``(B, h, H, W, d)`` to ``(B · h, H · W, d)``."""
    return x.to(dtype).flatten(2, 3).flatten(0, 1)


def _blocks(q: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Yield slices of heads, each with the slices of query pixels that form its blocks."""
    heads, pixels = q.shape[:2]
    on_cpu = q.device.type == "cpu"
    logits = LOGITS_PER_THREAD * torch.get_num_threads() if on_cpu else LOGITS_PER_DEVICE
    n_heads = max(1, logits // max(1, pixels**2))
    n_rows = max(1, logits // max(1, pixels))
    rows = [slice(i, min(i + n_rows, pixels)) for i in range(0, pixels, n_rows)]
    for i in range(0, heads, n_heads):
        yield slice(i, min(i + n_heads, heads)), rows


def _buffer(q: Tensor, heads: slice, blocks: list[slice]) -> Tensor:
    rows = max((rows.stop - rows.start for rows in blocks), default=0)
    return q.new_empty(heads.stop - heads.start, rows, q.shape[1])


def _biases(q: Tensor, r_h: Tensor, r_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the position terms: ``(heads, pixels, H)`` by key row, ``(…, W)`` by key column."""
    q = q.unflatten(1, (len(r_h), len(r_w)))
    bias_h = torch.einsum("gixd,ijd->gixj", q, r_h)
    bias_w = torch.einsum("gixd,xyd->gixy", q, r_w)
    return bias_h.flatten(1, 2), bias_w.flatten(1, 2)


def _softmax(q: Tensor, k: Tensor, bias_h: Tensor, bias_w: Tensor, out: Tensor) -> Tensor:
    """Write the attention weights of one block to `out`."""
    by_key = out.view(*out.shape[:2], bias_h.shape[-1], bias_w.shape[-1])
    torch.add(bias_h[..., None], bias_w[..., None, :], out=by_key)
    out.baddbmm_(q, k)
    # Weights below exp(-44) of the largest (float32; exp(-354) in float64) are raised to it. That
    # is far below rounding error, and it keeps denormals, which are several times slower, out of
    # the exponential and of the products of weights and gradients.
    lowest = out.amax(-1, keepdim=True) + 0.5 * math.log(torch.finfo(out.dtype).tiny)
    torch.maximum(out, lowest, out=out)
    return torch.softmax(out, -1, out=out)
