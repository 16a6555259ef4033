"""``INPUT.SCALE_JITTER``."""

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import add_augmentation_keys


@pytest.fixture
def cfg():
    cfg = CfgNode({"INPUT": {"CROP": {"ENABLED": False}}})
    add_augmentation_keys(cfg)
    return cfg


def test_off_by_default_and_added_once(cfg):
    assert not cfg.INPUT.SCALE_JITTER.ENABLED
    cfg.INPUT.SCALE_JITTER.SIZE = 512
    cfg.freeze()
    add_augmentation_keys(cfg)
    assert cfg.INPUT.SCALE_JITTER.SIZE == 512 and cfg.is_frozen()
