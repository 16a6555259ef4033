"""Exact 2-D relative multi-head self-attention: one operator, several backends. Torch only."""

from .functional import relative_attention_2d

__all__ = ["relative_attention_2d"]
