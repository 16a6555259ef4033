"""Refuse configs that need more memory than any machine has.

The bounds are at least ten times what is trained with today. Within them, whether memory suffices
depends on the machine.
"""

from fvcore.common.config import CfgNode

from .anchors import anchors_of_a_pixel
from .constraints import get, refusal
from .errors import ConfigError

_MOST_WEIGHTS = 2**30  # in one part of the network: 4 GB
_MOST_PIXELS = 2**30  # in one process's batch: 13 GB as the network's input
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BLOCKS |= {101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def check_weights(cfg: CfgNode) -> None:
    """Refuse a network if one of its parts has more weights than any detector.

    Raises:
        ConfigError: names the key to lower.
    """
    for key, weights in _weights(cfg).items():
        if weights > _MOST_WEIGHTS:
            raise _too_much(cfg, f"MODEL.{key}", f"{weights:,} weights, of {_MOST_WEIGHTS:,}")


def _weights(cfg: CfgNode) -> dict[str, int]:
    """Estimate the weights of each part, by the key below ``MODEL`` with the most effect on it."""
    model, resnets, attention = cfg.MODEL, cfg.MODEL.RESNETS, cfg.MODEL.ATTENTION
    channels = model.FPN.OUT_CHANNELS
    width = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP
    block = width * (9 * resnets.WIDTH_PER_GROUP + 2 * resnets.RES2_OUT_CHANNELS)
    parts = {
        "RESNETS.WIDTH_PER_GROUP": sum(
            blocks * 4**stage * block for stage, blocks in enumerate(_BLOCKS[resnets.DEPTH])
        ),
        "FPN.OUT_CHANNELS": 5 * 9 * channels**2,
    }
    if model.META_ARCHITECTURE == "RetinaNet":
        classes = anchors_of_a_pixel(cfg) * model.RETINANET.NUM_CLASSES
        parts["RETINANET.NUM_CONVS"] = 2 * model.RETINANET.NUM_CONVS * 9 * channels**2
        parts["RETINANET.NUM_CLASSES"] = 9 * channels * classes
    if attention.CONV == "aa":
        keys = attention.AA.NUM_HEADS * attention.AA.MIN_KEY_DEPTH_PER_HEAD
        parts["ATTENTION.AA.MIN_KEY_DEPTH_PER_HEAD"] = 2 * 8 * width * keys  # of a layer in res5
    return parts


def check_batch(cfg: CfgNode, processes: int) -> None:
    """Refuse to train on batches larger than any machine can hold.

    Images are assumed to be square, with the configured shorter side.

    Raises:
        ConfigError: names the key.
    """
    jitter = cfg.INPUT.SCALE_JITTER
    side = min(max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)
    if jitter.ENABLED:
        side = jitter.SIZE
    pixels = cfg.SOLVER.IMS_PER_BATCH // processes * side**2
    if pixels > _MOST_PIXELS:
        what = f"{pixels:,} pixels a process, of images of {side}x{side}, of {_MOST_PIXELS:,}"
        raise _too_much(cfg, "SOLVER.IMS_PER_BATCH", what)


def _too_much(cfg: CfgNode, key: str, what: str) -> ConfigError:
    return refusal(key, get(cfg, key), f"less: it comes to {what} at most")
