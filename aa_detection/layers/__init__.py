"""Convolutions with attention, drop-in for ``torch.nn.Conv2d``, and gates. Torch only."""

from .aa_conv import AAConv2d
from .aw_conv import AWConv2d
from .gates import CBAM, SqueezeExcitation

__all__ = ["CBAM", "AAConv2d", "AWConv2d", "SqueezeExcitation"]
