"""``DATASETS.COCO_FILES`` and what is refused of it."""

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import ConfigError, add_dataset_keys, coco_files


@pytest.fixture
def cfg():
    cfg = CfgNode({"DATASETS": {"TRAIN": ()}})
    add_dataset_keys(cfg)
    return cfg


def test_empty_by_default(cfg):
    assert coco_files(cfg) == []


def test_entries(cfg):
    cfg.DATASETS.COCO_FILES = [["mine", "a.json", "images"]]
    assert coco_files(cfg) == [("mine", "a.json", "images")]


@pytest.mark.parametrize(
    "entry", ["a.json", ["mine", "a.json"], ["mine", "a.json", ""], ["mine", 1, "images"], None]
)
def test_what_is_no_entry(cfg, entry):
    cfg.DATASETS.COCO_FILES = [entry]
    with pytest.raises(
        ConfigError, match=r"^DATASETS.COCO_FILES: got .*, expected a list, each a list of 3, "
    ):
        coco_files(cfg)
