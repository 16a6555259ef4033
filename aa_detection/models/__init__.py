"""Attention into any ResNet whose blocks have ``conv1``, ``conv2`` (and ``conv3``)."""

from .augment import STAGE_NAMES, AttentionSpec, augment
from .padding import mask_padding, real_size

__all__ = ["STAGE_NAMES", "AttentionSpec", "augment", "mask_padding", "real_size"]
