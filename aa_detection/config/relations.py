"""Checks of config keys against each other; the table constrains each key by itself."""

from fvcore.common.config import CfgNode

from .anchors import check_anchors
from .constraints import refusal, require
from .detectron2_keys import CLASSES
from .errors import ConfigError
from .memory import check_weights
from .preflight import number_of_classes

_BASIC_BLOCKS = {"RES2_OUT_CHANNELS": 64, "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64}
_GROUPS = 32  # in every group norm, as in detectron2


def _classes(cfg: CfgNode) -> None:
    require(cfg, number_of_classes(cfg)[0], CLASSES)


def _pixels(cfg: CfgNode) -> None:
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        value = cfg.MODEL[key]
        if len(value) != channels:
            raise refusal(f"MODEL.{key}", value, f"a number for each of {channels} channels")


def _sizes(cfg: CfgNode) -> None:
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        raise refusal(
            "INPUT.MIN_SIZE_TRAIN",
            sizes,
            "the smallest and the largest size for INPUT.MIN_SIZE_TRAIN_SAMPLING range",
        )


def _scale_jitter(cfg: CfgNode) -> None:
    jitter = cfg.INPUT.SCALE_JITTER
    if not jitter.ENABLED:
        return
    if "CROP" in cfg.INPUT and cfg.INPUT.CROP.ENABLED:
        raise ConfigError("INPUT.CROP.ENABLED: INPUT.SCALE_JITTER crops by itself; disable one")


def _basic_blocks(cfg: CfgNode) -> None:
    depth = cfg.MODEL.RESNETS.DEPTH
    if depth not in (18, 34):
        return
    for key, expected in _BASIC_BLOCKS.items():
        if cfg.MODEL.RESNETS[key] != expected:
            raise refusal(
                f"MODEL.RESNETS.{key}", cfg.MODEL.RESNETS[key], f"{expected} for a ResNet-{depth}"
            )


def _group_norms(cfg: CfgNode) -> None:
    model, resnets = cfg.MODEL, cfg.MODEL.RESNETS
    width = ("MODEL.RESNETS.WIDTH_PER_GROUP", resnets.WIDTH_PER_GROUP, resnets.NUM_GROUPS)
    block = ("MODEL.RESNETS.RES2_OUT_CHANNELS", resnets.RES2_OUT_CHANNELS, 1)
    pyramid = ("MODEL.FPN.OUT_CHANNELS", model.FPN.OUT_CHANNELS, 1)
    normed = [("RESNETS", width), ("RESNETS", block), ("FPN", pyramid)]
    if model.META_ARCHITECTURE == "RetinaNet":
        normed.append(("RETINANET", pyramid))
    for part, (key, channels, times) in normed:
        if model[part].NORM == "GN" and channels * times % _GROUPS:
            groups = f" for {times} groups" if times > 1 else ""
            raise refusal(
                key, channels, f"a multiple of {_GROUPS} channels{groups}: MODEL.{part}.NORM is GN"
            )


def _thresholds(cfg: CfgNode) -> None:
    retinanet = cfg.MODEL.RETINANET
    if len(retinanet.IOU_THRESHOLDS) != len(retinanet.IOU_LABELS) - 1:
        raise refusal(
            "MODEL.RETINANET.IOU_THRESHOLDS",
            retinanet.IOU_THRESHOLDS,
            f"one fewer than MODEL.RETINANET.IOU_LABELS {retinanet.IOU_LABELS}",
        )


def _nesterov(cfg: CfgNode) -> None:
    if cfg.SOLVER.NESTEROV and cfg.SOLVER.MOMENTUM == 0:
        raise refusal("SOLVER.NESTEROV", True, "False with SOLVER.MOMENTUM 0")


def _last_rate(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        raise refusal(
            "SOLVER.BASE_LR_END", solver.BASE_LR_END, f"at most SOLVER.BASE_LR {solver.BASE_LR}"
        )


def check_average(cfg: CfgNode) -> None:
    """Refuse precise batch norm statistics together with an average of the weights.

    The statistics would be those of the last weights, but the average is evaluated.

    Raises:
        ConfigError: names the keys.
    """
    decay = cfg.SOLVER.EMA.DECAY
    if decay and "PRECISE_BN" in cfg.TEST and cfg.TEST.PRECISE_BN.ENABLED:
        raise ConfigError(
            "TEST.PRECISE_BN.ENABLED is of the last weights' statistics, and SOLVER.EMA.DECAY "
            f"{decay} evaluates averaged weights; choose one"
        )


RELATIONS = (
    _classes,
    _pixels,
    _sizes,
    _scale_jitter,
    _basic_blocks,
    _group_norms,
    check_anchors,
    _thresholds,
    _nesterov,
    _last_rate,
    check_average,
    check_weights,
)
