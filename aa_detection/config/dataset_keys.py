"""``DATASETS.COCO_FILES``: a user's own datasets, so that a config alone says what it trains on."""

from typing import Any

from fvcore.common.config import CfgNode

from .errors import ConfigError
from .keys import Key, add_keys

DATASET_KEYS = (
    Key(
        "DATASETS.COCO_FILES",
        [],
        "list of `[name, annotation file, image folder]`",
        "Datasets in COCO's format, which DATASETS.TRAIN and TEST may name; `--train-json` and "
        "`--val-json` set it",
    ),
)


def add_dataset_keys(cfg: CfgNode) -> None:
    """Add ``DATASETS.COCO_FILES``, empty, to a config; once is enough."""
    add_keys(cfg, DATASET_KEYS)


def coco_files(cfg: CfgNode) -> list[tuple[str, str, str]]:
    """Name, annotation file and image folder of every entry; none where the key is not there.

    Raises:
        ConfigError: an entry that is something else; names the key.
    """
    entries = []
    for entry in cfg.DATASETS.get("COCO_FILES", []):
        if not _three_texts(entry):
            raise ConfigError(
                "DATASETS.COCO_FILES must be lists of three texts, [name, annotation file, image "
                f"folder], got {entry!r}"
            )
        name, annotation_file, image_root = entry
        entries.append((name, annotation_file, image_root))
    return entries


def _three_texts(entry: Any) -> bool:
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 3
        and all(isinstance(text, str) and text for text in entry)
    )
