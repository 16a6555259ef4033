"""Exact attention as one dot product: the position terms become channels of q and k.

A position term depends on one coordinate of the key only, so with ``R_h[i, j] = rel_h[j - i]`` ::

    logit = [q, R_h[i] q, R_w[x] q, 1] · [k, onehot(j), onehot(y), mask(j, y)],  q times scale

and every kernel for plain attention applies, at a width of ``d_k + H + W`` (+ 1 with padding).
Memory is linear in the pixels where :func:`torch.nn.functional.scaled_dot_product_attention` finds
a fused kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .positions import distance_vectors, real_pixels

FLASH_COLUMNS = 256  # of PyTorch's flash attention on CUDA


def folded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    scale: float,
    valid_size: Tensor | None,
) -> Tensor:
    """See :func:`aa_detection.attention.relative_attention_2d`, whose arguments these are.

    In half precision the scaled q and the position terms are rounded before they are added up.
    """
    batch, heads, height, width, _ = q.shape
    q, k, dtype_out = q * scale, k.to(q.dtype), v.dtype
    queries, keys = [q], [k]
    if rel_h is not None:
        r = distance_vectors(rel_h.to(q.dtype), height)
        queries.append(torch.einsum("bhixd,ijd->bhixj", q, r))
        row = torch.eye(height, dtype=q.dtype, device=q.device)
        keys.append(row[:, None].expand(batch, heads, height, width, height))
    if rel_w is not None:
        r = distance_vectors(rel_w.to(q.dtype), width)
        queries.append(torch.einsum("bhixd,xyd->bhixy", q, r))
        column = torch.eye(width, dtype=q.dtype, device=q.device)
        keys.append(column.expand(batch, heads, height, width, width))
    if valid_size is not None:
        real = real_pixels(valid_size, height, width)
        queries.append(q.new_ones(1).expand(batch, heads, height, width, 1))
        # half of the lowest number, not -inf: an image without a real pixel must not make NaN
        lowest = torch.finfo(q.dtype).min / 2
        mask = torch.zeros_like(real, dtype=q.dtype).masked_fill(~real, lowest)
        keys.append(mask[:, None, :, :, None].expand(batch, heads, height, width, 1))

    q_, k_ = torch.cat(queries, -1).flatten(2, 3), torch.cat(keys, -1).flatten(2, 3)
    columns = _multiple_of_8(q_.shape[-1])
    q_, k_ = (F.pad(x, (0, columns - x.shape[-1])) for x in (q_, k_))
    v_ = v.flatten(2, 3).to(q.dtype)
    v_ = F.pad(v_, (0, _value_columns(v_, columns) - v.shape[-1]))
    out = F.scaled_dot_product_attention(q_, k_, v_, scale=1.0)
    out = out[..., : v.shape[-1]].unflatten(2, (height, width)).to(dtype_out)
    if valid_size is not None:
        out = out.masked_fill(~real[:, None, :, :, None], 0)
    return out


def _value_columns(v: Tensor, columns: int) -> int:
    """The width at which PyTorch finds a fused kernel for v, beside q and k with so many columns.

    Flash attention, on the CPU and in half precision on CUDA, wants v as wide as q and k. Where
    CUDA's flash attention ends, its memory-efficient attention asks for a multiple of 8 only.
    """
    flash = v.dtype in (torch.float16, torch.bfloat16) and columns <= FLASH_COLUMNS
    if v.device.type == "cuda" and not flash:
        return _multiple_of_8(v.shape[-1])
    return columns


def _multiple_of_8(columns: int) -> int:
    return columns + -columns % 8
