"""Distance vectors of pairs of pixels, and the mask of real pixels."""

import torch
from torch import Tensor


def distance_vectors(table: Tensor, size: int, queries: Tensor | None = None) -> Tensor:
    """Return ``(n, size, d_k)``: the row of `table` for every (query, key) pair along one axis.

    `table` is ``(2 * max_size - 1, d_k)``; its row ``r`` is for the distance
    ``r - (max_size - 1)``, key minus query. Distances beyond the table take its end rows. `queries`
    are n positions, default all.
    """
    max_size = (len(table) + 1) // 2
    position = torch.arange(size, device=table.device)
    queries = position if queries is None else queries
    distance = position[None, :] - queries[:, None]
    return table[distance.clamp(1 - max_size, max_size - 1) + max_size - 1]


def real_pixels(valid_size: Tensor, height: int, width: int) -> Tensor:
    """Return ``(B, H, W)`` booleans, True inside the image. `valid_size` is ``(B, 2)``."""
    rows = torch.arange(height, device=valid_size.device) < valid_size[:, :1]
    columns = torch.arange(width, device=valid_size.device) < valid_size[:, 1:]
    return rows[:, :, None] & columns[:, None, :]
