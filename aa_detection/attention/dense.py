"""The reference implementation: the formula as written, with all logits materialised.

Memory is ``O(heads · (H·W)²)``. Every other backend is tested against this one.
"""

import torch
from torch import Tensor

from .positions import distance_vectors, real_pixels


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    scale: float,
    valid_size: Tensor | None,
) -> Tensor:
    """See :func:`aa_detection.attention.relative_attention_2d` for the arguments."""
    height, width = q.shape[2:4]
    dtype_out = v.dtype
    dtype = torch.promote_types(q.dtype, torch.float32)  # float16 and bfloat16 become float32
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)

    # i, j: query and key row; x, y: query and key column
    logits = torch.einsum("bhixd,bhjyd->bhixjy", q, k)
    if rel_h is not None:
        r = distance_vectors(rel_h.to(dtype), height)
        logits = logits + torch.einsum("bhixd,ijd->bhixj", q, r)[..., None]
    if rel_w is not None:
        r = distance_vectors(rel_w.to(dtype), width)
        logits = logits + torch.einsum("bhixd,xyd->bhixy", q, r)[..., None, :]
    logits = logits * scale

    if valid_size is not None:
        real = real_pixels(valid_size, height, width)
        # the lowest finite number, not -inf: an image without real pixels must not give NaN
        logits = logits.masked_fill(~real[:, None, None, None], torch.finfo(dtype).min)
    weights = logits.flatten(-2).softmax(-1).unflatten(-1, (height, width))
    out = torch.einsum("bhixjy,bhjyd->bhixd", weights, v)
    if valid_size is not None:
        out = out.masked_fill(~real[:, None, :, :, None], 0)
    return out.to(dtype_out)
