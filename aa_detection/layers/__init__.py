"""Convolutions with attention, drop-in for ``torch.nn.Conv2d``. Torch only."""

from .aa_conv import AAConv2d
from .aw_conv import AWConv2d

__all__ = ["AAConv2d", "AWConv2d"]
