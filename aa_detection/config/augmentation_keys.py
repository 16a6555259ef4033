"""``INPUT.SCALE_JITTER``: augmentation for training from random weights, on both engines."""

from fvcore.common.config import CfgNode

from .constraints import Flag, ListOf, Number, whole
from .keys import Key, add_keys

AUGMENTATION_KEYS = (
    Key(
        "INPUT.SCALE_JITTER.ENABLED",
        False,
        Flag(),
        "Resize training images to fit a square of SIZE times a factor drawn from RANGE, then crop "
        "a window of at most SIZE × SIZE; replaces MIN_SIZE_TRAIN and CROP",
    ),
    Key(
        "INPUT.SCALE_JITTER.RANGE",
        (0.8, 1.2),
        ListOf(Number(0.01, 100), 2, 2, order="sorted"),
        "Range of the factor, which is drawn uniformly",
    ),
    Key(
        "INPUT.SCALE_JITTER.SIZE",
        640,
        whole(1, 32768, "pixels"),
        "Side of the square and of the window",
    ),
)


def add_augmentation_keys(cfg: CfgNode) -> None:
    """Add ``INPUT.SCALE_JITTER`` with its defaults (off) to a config; idempotent."""
    add_keys(cfg, AUGMENTATION_KEYS)
