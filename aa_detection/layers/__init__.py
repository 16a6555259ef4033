"""Attention convolutions, drop-in for ``torch.nn.Conv2d``, and gates. They need only torch."""

from .aa_conv import AAConv2d
from .aw_conv import AWConv2d
from .gates import CBAM, GATES, SqueezeExcitation

__all__ = ["CBAM", "GATES", "AAConv2d", "AWConv2d", "SqueezeExcitation"]
