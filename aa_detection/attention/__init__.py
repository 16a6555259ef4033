"""Exact 2-D relative multi-head self-attention: one operator, several backends. Torch only."""

from .functional import relative_attention_2d
from .queries import attention_at

__all__ = ["attention_at", "relative_attention_2d"]
