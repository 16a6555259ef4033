"""detectron2's keys whose values a run would trip over later, or train nonsense with."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from fvcore.common.config import CfgNode

from .errors import ConfigError
from .preflight import number_of_classes


def _at_least(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"be at least {least}", partial(operator.le, least)


def _one_of(*choices: Any) -> tuple[str, Callable[[Any], bool]]:
    return f"be one of {', '.join(map(str, choices))}", choices.__contains__


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


# by key: what a value must be, and the check
VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "MODEL.DEVICE": ("be cuda, cuda:<number> or cpu", _is_device),
    "MODEL.RESNETS.DEPTH": _one_of(18, 34, 50, 101, 152),
    "MODEL.FPN.OUT_CHANNELS": _at_least(1),
    "MODEL.RETINANET.NUM_CONVS": _at_least(0),
    "INPUT.FORMAT": _one_of("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MIN_SIZE_TRAIN": ("be one or more sizes of at least 0", _sizes),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": _at_least(1),
    "INPUT.MIN_SIZE_TEST": _at_least(0),
    "INPUT.MAX_SIZE_TEST": _at_least(1),
    "INPUT.RANDOM_FLIP": _one_of("horizontal", "vertical", "none"),
    "DATALOADER.NUM_WORKERS": _at_least(0),
    "SOLVER.LR_SCHEDULER_NAME": _one_of("WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.MAX_ITER": _at_least(1),
    "SOLVER.BASE_LR": ("be finite and above 0", lambda value: 0 < value < math.inf),
    "SOLVER.MOMENTUM": ("be at least 0 and below 1", lambda value: 0 <= value < 1),
    "SOLVER.WEIGHT_DECAY": ("be finite and at least 0", lambda value: 0 <= value < math.inf),
    "SOLVER.GAMMA": ("be finite and above 0", lambda value: 0 < value < math.inf),
    "SOLVER.STEPS": ("be iterations above 0, in order", _increasing),
    "SOLVER.WARMUP_ITERS": _at_least(0),
    "SOLVER.WARMUP_METHOD": _one_of("linear", "constant"),
    "SOLVER.CHECKPOINT_PERIOD": _at_least(1),
    "SOLVER.IMS_PER_BATCH": _at_least(1),
    "SOLVER.REFERENCE_WORLD_SIZE": _at_least(0),
    "TEST.EVAL_PERIOD": _at_least(0),
    "TEST.DETECTIONS_PER_IMAGE": _at_least(1),
}


def check_values(cfg: CfgNode) -> None:
    """Refuse values out of range, on either engine.

    Raises:
        ConfigError: names the key.
    """
    _require(cfg, number_of_classes(cfg)[0], *_at_least(1))
    for name, (expected, check) in VALUES.items():
        _require(cfg, name, expected, check)
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        _require(
            cfg,
            "INPUT.MIN_SIZE_TRAIN",
            "be the smallest and the largest size for INPUT.MIN_SIZE_TRAIN_SAMPLING range",
            lambda value: len(value) == 2,
        )
    _check_pixels(cfg)
    _check_resnet(cfg)


def _check_pixels(cfg: CfgNode) -> None:
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    finite = lambda value: _numbers(value) and len(value) == channels  # noqa: E731
    _require(cfg, "MODEL.PIXEL_MEAN", f"be {channels} finite numbers", finite)
    _require(
        cfg,
        "MODEL.PIXEL_STD",
        f"be {channels} finite numbers above 0",
        lambda value: finite(value) and min(value) > 0,
    )


def _check_resnet(cfg: CfgNode) -> None:
    depth = cfg.MODEL.RESNETS.DEPTH
    if depth not in (18, 34):
        return
    for key, expected in (("RES2_OUT_CHANNELS", 64), ("NUM_GROUPS", 1), ("WIDTH_PER_GROUP", 64)):
        _require(
            cfg,
            f"MODEL.RESNETS.{key}",
            f"be {expected} for a ResNet-{depth}",
            partial(operator.eq, expected),
        )


def _require(cfg: CfgNode, name: str, expected: str, check: Callable[[Any], bool]) -> None:
    value: Any = cfg
    for part in name.split("."):
        value = value[part]
    if not check(value):
        raise ConfigError(f"{name} must {expected}, got {value!r}")
