"""Sinusoidal absolute positions, the baseline for relative positions."""

import torch
from torch import Tensor

LONGEST = 10_000  # longest wavelength over 2π, as in Vaswani et al.


def sinusoidal_positions(x: Tensor) -> Tensor:
    """Return ``(C, H, W)`` positional encodings for a map `x` of shape ``(B, C, H, W)``.

    The first half of the channels encodes the row and the rest the column, each counted from 0. In
    each half even channels are sines and odd ones cosines, with wavelengths in a geometric series
    from 2π to 2π · 10000 (Vaswani et al., *Attention Is All You Need*, section 3.5, applied to each
    axis; the "2d Sine" of Bello et al.'s comparison).
    """
    channels, height, width = x.shape[1:]
    of_rows = (channels + 1) // 2
    row, column = (
        torch.arange(n, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        for n in (height, width)
    )
    rows, columns = _waves(row, of_rows), _waves(column, channels - of_rows)
    waves = [rows[:, :, None].expand(-1, -1, width), columns[:, None, :].expand(-1, height, -1)]
    return torch.cat(waves).to(x.dtype)


def _waves(position: Tensor, channels: int) -> Tensor:
    """Return ``(channels, n)`` encodings of n positions along one axis."""
    channel = torch.arange(channels, device=position.device)
    exponent = (channel // 2).to(position) * (-2 / max(1, channels))
    angle = LONGEST ** exponent[:, None] * position
    return torch.where(channel[:, None] % 2 == 0, angle.sin(), angle.cos())
