"""Attention weights of a few query pixels, for drawing attention maps."""

import torch
from torch import Tensor

from .positions import distance_vectors, real_pixels


def attention_at(
    q: Tensor,
    k: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    queries: Tensor,
    *,
    scale: float | None = None,
    valid_size: Tensor | None = None,
) -> Tensor:
    """Return the weights with which given pixels attend to all pixels of their map.

    They are the weights of :func:`aa_detection.attention.relative_attention_2d`; see there for the
    other arguments. Memory is linear in the number of queries and of pixels.

    Args:
        queries: ``(n, 2)`` integers, row and column of each query pixel on the map.

    Returns:
        ``(B, heads, n, H, W)``, at least float32; each map sums to 1. The map of a query outside
        `valid_size` is zero, as its output is.

    Raises:
        ValueError: a query is outside the map.
    """
    height, width = q.shape[2:4]
    outside = (queries < 0) | (queries >= queries.new_tensor([height, width]))
    if bool(outside.any()):
        row, column = queries[outside.any(dim=1)][0].tolist()
        raise ValueError(f"query ({row}, {column}) is outside a map of {height} x {width}")
    if scale is None:
        scale = q.shape[-1] ** -0.5
    dtype = torch.promote_types(q.dtype, torch.float32)
    row, column = queries.to(q.device).unbind(1)

    with torch.autocast(q.device.type, enabled=False):
        q, k = q[:, :, row, column].to(dtype), k.to(dtype)  # q: (B, heads, n, d_k)
        logits = torch.einsum("bhnd,bhjyd->bhnjy", q, k)
        if rel_h is not None:
            r = distance_vectors(rel_h.to(dtype), height, row)
            logits += torch.einsum("bhnd,njd->bhnj", q, r)[..., None]
        if rel_w is not None:
            r = distance_vectors(rel_w.to(dtype), width, column)
            logits += torch.einsum("bhnd,nyd->bhny", q, r)[..., None, :]
        logits *= scale
        if valid_size is not None:
            real = real_pixels(valid_size.to(q.device), height, width)
            # the lowest finite number, not -inf: an image without real pixels must not give NaN
            logits.masked_fill_(~real[:, None, None], torch.finfo(dtype).min)
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        if valid_size is not None:
            weights.masked_fill_(~real[:, None, row, column, None, None], 0)
    return weights
