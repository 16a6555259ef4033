"""Attention for any ResNet whose blocks have ``conv1``, ``conv2`` (and ``conv3``)."""

from .augment import CONVS, AttentionSpec, augment
from .padding import MASKS, mask_padding, real_size
from .resnet import STAGE_NAMES

__all__ = ["CONVS", "MASKS", "STAGE_NAMES", "AttentionSpec", "augment", "mask_padding", "real_size"]
