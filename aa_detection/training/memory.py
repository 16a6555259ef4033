"""What a configuration's training needs in memory, for the line that says it ran out."""

from collections.abc import Callable

import torch
from fvcore.common.config import CfgNode
from torch import nn

from ..models.analysis import DensePart, analyze

# Numbers kept for the backward pass over those that convolutions and matrix products put out:
# norms, activations and losses keep theirs. tests/training/test_memory.py measures it; frozen norms
# keep less.
_KEPT = 2.5
_PROBE = 256  # pixels: activations grow with the image's area, so a small one is counted


def training_memory(detector: nn.Module, images: int, height: int, width: int) -> int:
    """Bytes of one process's training step in float32, estimated.

    Weights, gradients and momentum, and what is kept for the backward pass. Attention is counted
    with the memory of a backend that does not materialise its logits.

    Args:
        detector: of either engine, on the CPU.
        images: of the process's batch, padded to `height` × `width` pixels.
    """
    probe = analyze(DensePart(detector), torch.ones(1, 3, _PROBE, _PROBE))
    attention = sum(cost.linear_bytes for cost in probe.attention)
    area = images * height * width / _PROBE**2
    parameters = sum(p.numel() for p in detector.parameters())
    return int(3 * 4 * parameters + area * (4 * _KEPT * probe.activations + attention))


def memory_advice(
    cfg: CfgNode, build_model: Callable[[CfgNode], nn.Module], world_size: int, *, training: bool
) -> str:
    """What a config needs, beside the keys that lower it."""
    if not training:
        return (
            f"evaluation takes images one by one: lower INPUT.MIN_SIZE_TEST "
            f"({cfg.INPUT.MIN_SIZE_TEST}) or INPUT.MAX_SIZE_TEST ({cfg.INPUT.MAX_SIZE_TEST})"
        )
    images = max(1, cfg.SOLVER.IMS_PER_BATCH // world_size)
    if cfg.INPUT.SCALE_JITTER.ENABLED:
        key = "INPUT.SCALE_JITTER.SIZE"
        value = height = width = cfg.INPUT.SCALE_JITTER.SIZE
    else:
        key, value = "INPUT.MIN_SIZE_TRAIN", cfg.INPUT.MIN_SIZE_TRAIN
        width = cfg.INPUT.MAX_SIZE_TRAIN
        height = min(max(value) or width, width)
    cfg_on_cpu = cfg.clone()
    cfg_on_cpu.defrost()
    cfg_on_cpu.MODEL.DEVICE = "cpu"
    try:
        size = training_memory(build_model(cfg_on_cpu), images, height, width)
        needs = f" needs about {size / 1e9:.2g} GB a process, less under SOLVER.AMP.ENABLED"
    except (MemoryError, RuntimeError):  # the machine has not even that left
        needs = ""
    return (
        f"training on {images} images of {height}x{width}{needs}; lower SOLVER.IMS_PER_BATCH "
        f"({cfg.SOLVER.IMS_PER_BATCH}) or {key} ({value})"
    )
