"""Exact attention as one dot product: the position terms become channels of q and k.

Each position term depends on only one coordinate of the key. With ``R_h[i, j] = rel_h[j - i]`` ::

    logit = [q, R_h[i] q, R_w[x] q, 1] · [k, onehot(j), onehot(y), mask(j, y)],  q times scale

so every kernel for plain attention applies, at a width of ``d_k + H + W`` (+ 1 with padding).
Memory is linear in the number of pixels wherever
:func:`torch.nn.functional.scaled_dot_product_attention` has a fused kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .positions import distance_vectors, real_pixels

FLASH_COLUMNS = 256  # the widest head of PyTorch's flash attention on CUDA


def folded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    scale: float,
    valid_size: Tensor | None,
) -> Tensor:
    """See :func:`aa_detection.attention.relative_attention_2d` for the arguments.

    In half precision, the scaled q and the position terms are rounded before they are summed.
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
        # half the lowest number, not -inf: an image without real pixels must not give NaN
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
    """Return the width of v for which PyTorch has a fused kernel, given the width of q and k.

    Flash attention, on the CPU and in half precision on CUDA, needs v as wide as q and k. Beyond
    CUDA flash attention's limit, memory-efficient attention needs only a multiple of 8.
    """
    flash = v.dtype in (torch.float16, torch.bfloat16) and columns <= FLASH_COLUMNS
    if v.device.type == "cuda" and not flash:
        return _multiple_of_8(v.shape[-1])
    return columns


def _multiple_of_8(columns: int) -> int:
    return columns + -columns % 8
