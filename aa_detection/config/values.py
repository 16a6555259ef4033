"""detectron2's keys whose values a run would trip over later, or train nonsense with."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from fvcore.common.config import CfgNode

from .errors import ConfigError
from .training import number_of_classes

_DEPTHS = (18, 34, 50, 101, 152)


def check_values(cfg: CfgNode) -> None:
    """Refuse values out of range, on either engine.

    Raises:
        ConfigError: names the key.
    """
    for name, least in (
        (number_of_classes(cfg)[0], 1),
        ("MODEL.RETINANET.NUM_CONVS", 0),
        ("MODEL.FPN.OUT_CHANNELS", 1),
        ("INPUT.MIN_SIZE_TEST", 0),
        ("INPUT.MAX_SIZE_TEST", 1),
        ("INPUT.MAX_SIZE_TRAIN", 1),
        ("DATALOADER.NUM_WORKERS", 0),
        ("SOLVER.IMS_PER_BATCH", 1),
        ("SOLVER.MAX_ITER", 1),
        ("SOLVER.WARMUP_ITERS", 0),
        ("SOLVER.CHECKPOINT_PERIOD", 1),
        ("SOLVER.REFERENCE_WORLD_SIZE", 0),
        ("TEST.EVAL_PERIOD", 0),
        ("TEST.DETECTIONS_PER_IMAGE", 1),
    ):
        _require(cfg, name, partial(operator.le, least), f"be at least {least}")
    positive = lambda value: 0 < value < math.inf  # noqa: E731
    for name, check, expected in (
        ("SOLVER.BASE_LR", positive, "be finite and above 0"),
        ("SOLVER.GAMMA", positive, "be finite and above 0"),
        ("SOLVER.WEIGHT_DECAY", lambda value: 0 <= value < math.inf, "be finite and at least 0"),
        ("SOLVER.MOMENTUM", lambda value: 0 <= value < 1, "be at least 0 and below 1"),
        ("SOLVER.STEPS", _increasing, "be iterations above 0, in order"),
        ("SOLVER.LR_SCHEDULER_NAME", *_one_of("WarmupMultiStepLR", "WarmupCosineLR")),
        ("SOLVER.WARMUP_METHOD", *_one_of("linear", "constant")),
        ("INPUT.MIN_SIZE_TRAIN", _sizes, "be one or more sizes of at least 0"),
        ("INPUT.RANDOM_FLIP", *_one_of("horizontal", "vertical", "none")),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", *_one_of("choice", "range")),
        ("INPUT.FORMAT", *_one_of("BGR", "RGB", "L", "YUV-BT.601")),
        ("MODEL.DEVICE", _is_device, "be cuda, cuda:<number> or cpu"),
        ("MODEL.RESNETS.DEPTH", *_one_of(*_DEPTHS)),
    ):
        _require(cfg, name, check, expected)
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        _require(
            cfg,
            "INPUT.MIN_SIZE_TRAIN",
            lambda value: len(value) == 2,
            "be the smallest and the largest size for INPUT.MIN_SIZE_TRAIN_SAMPLING range",
        )
    _check_pixels(cfg)
    _check_resnet(cfg)


def _check_pixels(cfg: CfgNode) -> None:
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    finite = lambda value: _numbers(value) and len(value) == channels  # noqa: E731
    _require(cfg, "MODEL.PIXEL_MEAN", finite, f"be {channels} finite numbers")
    _require(
        cfg,
        "MODEL.PIXEL_STD",
        lambda value: finite(value) and min(value) > 0,
        f"be {channels} finite numbers above 0",
    )


def _check_resnet(cfg: CfgNode) -> None:
    depth = cfg.MODEL.RESNETS.DEPTH
    if depth not in (18, 34):
        return
    for key, expected in (("RES2_OUT_CHANNELS", 64), ("NUM_GROUPS", 1), ("WIDTH_PER_GROUP", 64)):
        _require(
            cfg,
            f"MODEL.RESNETS.{key}",
            partial(operator.eq, expected),
            f"be {expected} for a ResNet-{depth}",
        )


def _require(cfg: CfgNode, name: str, check: Callable[[Any], bool], expected: str) -> None:
    value: Any = cfg
    for part in name.split("."):
        value = value[part]
    if not check(value):
        raise ConfigError(f"{name} must {expected}, got {value!r}")


def _one_of(*choices: Any) -> tuple[Callable[[Any], bool], str]:
    return choices.__contains__, f"be one of {', '.join(map(str, choices))}"


def _numbers(values: Sequence[Any]) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _increasing(steps: Sequence[Any]) -> bool:
    return _numbers(steps) and all(low < high for low, high in zip((0, *steps), steps))


def _sizes(sizes: Sequence[Any]) -> bool:
    return len(sizes) > 0 and all(type(size) is int and size >= 0 for size in sizes)


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True
