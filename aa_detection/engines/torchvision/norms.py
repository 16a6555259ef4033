"""The norms that detectron2's configs name, of torch's and torchvision's make."""

from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def norm_layer(name: str, device: str) -> Callable[[int], nn.Module] | None:
    """What makes a norm of so many channels; None for none."""
    return {
        "": None,
        "FrozenBN": FrozenBatchNorm2d,
        "BN": nn.BatchNorm2d,
        # made so, not converted later: conversion would drop the hooks of attention; and there is
        # no such norm for the CPU
        "SyncBN": nn.SyncBatchNorm if device.startswith("cuda") else nn.BatchNorm2d,
        "GN": partial(nn.GroupNorm, 32),
    }[name]
