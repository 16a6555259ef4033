"""The specification: the operator written out, everything materialised.

Memory is ``O(heads · (H·W)²)``. Every other backend is tested against this one.
"""

from typing import Optional

import torch
from torch import Tensor


def relative_distance(size: int, max_size: int, device: torch.device) -> Tensor:
    """Row of the distance table for every (query, key) pair along one axis.

    Returns a ``(size, size)`` tensor of ``clamp(key - query) + max_size - 1``; distances beyond the
    table take its end rows.
    """
    position = torch.arange(size, device=device)
    distance = position[None, :] - position[:, None]
    return distance.clamp(1 - max_size, max_size - 1) + max_size - 1


def real_pixels(valid_size: Tensor, height: int, width: int) -> Tensor:
    """``(B, H, W)`` booleans: whether a pixel is inside its image. `valid_size` is ``(B, 2)``."""
    rows = torch.arange(height, device=valid_size.device) < valid_size[:, :1]
    columns = torch.arange(width, device=valid_size.device) < valid_size[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Optional[Tensor],
    rel_w: Optional[Tensor],
    scale: float,
    valid_size: Optional[Tensor],
) -> Tensor:
    """See :func:`aa_detection.attention.relative_attention_2d`, whose arguments these are."""
    batch, heads, height, width, _ = q.shape
    logits_dtype = torch.promote_types(q.dtype, torch.float32)  # float16 and bfloat16 go up
    q, k, v_ = q.to(logits_dtype), k.to(logits_dtype), v.to(logits_dtype)

    # i, j: query and key row; x, y: query and key column
    logits = torch.einsum("bhixd,bhjyd->bhixjy", q, k)
    if rel_h is not None:
        r = rel_h.to(logits_dtype)[relative_distance(height, (len(rel_h) + 1) // 2, q.device)]
        logits = logits + torch.einsum("bhixd,ijd->bhixj", q, r)[..., None]
    if rel_w is not None:
        r = rel_w.to(logits_dtype)[relative_distance(width, (len(rel_w) + 1) // 2, q.device)]
        logits = logits + torch.einsum("bhixd,xyd->bhixy", q, r)[..., None, :]
    logits = logits * scale

    if valid_size is None:
        weights = logits.flatten(-2).softmax(-1).unflatten(-1, (height, width))
        return torch.einsum("bhixjy,bhjyd->bhixd", weights, v_).to(v.dtype)

    real = real_pixels(valid_size, height, width)
    # the lowest finite number, not -inf: an image without a real pixel must not make NaN
    logits = logits.masked_fill(~real[:, None, None, None], torch.finfo(logits_dtype).min)
    weights = logits.flatten(-2).softmax(-1).unflatten(-1, (height, width))
    out = torch.einsum("bhixjy,bhjyd->bhixd", weights, v_)
    return out.masked_fill(~real[:, None, :, :, None], 0).to(v.dtype)
