"""``DATASETS.COCO_FILES``: a user's own datasets, so that a config is complete by itself."""

from fvcore.common.config import CfgNode

from .constraints import ListOf, Text, require
from .keys import Key, add_keys

DATASET_KEYS = (
    Key(
        "DATASETS.COCO_FILES",
        [],
        ListOf(ListOf(Text(), 3, 3)),
        "Datasets in COCO's format that DATASETS.TRAIN and TEST may name, each a list of name, "
        "annotation file and image folder; `--train-json` and `--val-json` set it",
    ),
)


def add_dataset_keys(cfg: CfgNode) -> None:
    """Add ``DATASETS.COCO_FILES``, empty, to a config; idempotent."""
    add_keys(cfg, DATASET_KEYS)


def coco_files(cfg: CfgNode) -> list[tuple[str, str, str]]:
    """Return name, annotation file and image folder of every entry; empty without the key.

    Raises:
        ConfigError: the value has another form; names the key.
    """
    if "COCO_FILES" not in cfg.DATASETS:
        return []
    (key,) = DATASET_KEYS
    require(cfg, key.name, key.allowed)
    return [tuple(entry) for entry in cfg.DATASETS.COCO_FILES]
