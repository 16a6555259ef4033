"""``INPUT.SCALE_JITTER``: the augmentation of the recipes from random weights, for both engines."""

from fvcore.common.config import CfgNode

from .errors import ConfigError
from .keys import Key, add_keys

AUGMENTATION_KEYS = (
    Key(
        "INPUT.SCALE_JITTER.ENABLED",
        False,
        "True, False",
        "Fit training images into a square of SIZE times a factor drawn from RANGE, then cut a "
        "window of at most SIZE × SIZE out of them; takes the place of MIN_SIZE_TRAIN and CROP",
    ),
    Key(
        "INPUT.SCALE_JITTER.RANGE",
        (0.8, 1.2),
        "two factors above 0, the smaller first",
        "Of the factor, which is drawn uniformly",
    ),
    Key("INPUT.SCALE_JITTER.SIZE", 640, "1 or more, pixels", "Side of the square and the window"),
)


def add_augmentation_keys(cfg: CfgNode) -> None:
    """Add ``INPUT.SCALE_JITTER`` with its defaults (off) to a config; once is enough."""
    add_keys(cfg, AUGMENTATION_KEYS)


def check_augmentation(cfg: CfgNode) -> None:
    """Refuse a scale jitter that cannot be.

    Raises:
        ConfigError: names the key.
    """
    jitter = cfg.INPUT.SCALE_JITTER
    if not jitter.ENABLED:
        return
    numbers = all(isinstance(factor, (int, float)) for factor in jitter.RANGE)
    if len(jitter.RANGE) != 2 or not numbers or not 0 < jitter.RANGE[0] <= jitter.RANGE[1]:
        raise ConfigError(
            "INPUT.SCALE_JITTER.RANGE must be two factors above 0, the smaller first, got "
            f"{jitter.RANGE}"
        )
    if jitter.SIZE < 1:
        raise ConfigError(f"INPUT.SCALE_JITTER.SIZE must be at least 1, got {jitter.SIZE}")
    if "CROP" in cfg.INPUT and cfg.INPUT.CROP.ENABLED:
        raise ConfigError("INPUT.CROP.ENABLED: INPUT.SCALE_JITTER crops by itself; disable one")
