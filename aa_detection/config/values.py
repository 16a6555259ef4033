"""detectron2's keys whose values a run would trip over later, or train nonsense with."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from fvcore.common.config import CfgNode

from .detectron2_keys import KEYS, at_least, numbers
from .errors import ConfigError
from .preflight import number_of_classes


def check_values(cfg: CfgNode) -> None:
    """Refuse values out of range, on either engine.

    Raises:
        ConfigError: names the key.
    """
    _require(cfg, number_of_classes(cfg)[0], *at_least(1))
    for name, key in KEYS.items():
        if key.check is not None:
            _require(cfg, name, *key.check)
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
    finite = lambda value: numbers(value) and len(value) == channels  # noqa: E731
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
