"""Exact 2-D relative multi-head self-attention: one operator, several backends."""

from .functional import BACKENDS, relative_attention_2d
from .queries import attention_at

__all__ = ["BACKENDS", "attention_at", "relative_attention_2d"]
