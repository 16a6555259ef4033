"""``INPUT.SCALE_JITTER``: the augmentation of the recipes from random weights, for both engines."""

from fvcore.common.config import CfgNode

from .constraints import Flag, ListOf, Number, whole
from .keys import Key, add_keys

AUGMENTATION_KEYS = (
    Key(
        "INPUT.SCALE_JITTER.ENABLED",
        False,
        Flag(),
        "Fit training images into a square of SIZE times a factor drawn from RANGE, then cut a "
        "window of at most SIZE × SIZE out of them; takes the place of MIN_SIZE_TRAIN and CROP",
    ),
    Key(
        "INPUT.SCALE_JITTER.RANGE",
        (0.8, 1.2),
        ListOf(Number(0.01, 100), 2, 2, order="sorted"),
        "Of the factor, which is drawn uniformly",
    ),
    Key(
        "INPUT.SCALE_JITTER.SIZE",
        640,
        whole(1, 32768, "pixels"),
        "Side of the square and the window",
    ),
)


def add_augmentation_keys(cfg: CfgNode) -> None:
    """Add ``INPUT.SCALE_JITTER`` with its defaults (off) to a config; once is enough."""
    add_keys(cfg, AUGMENTATION_KEYS)
