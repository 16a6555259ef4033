"""``INPUT.SCALE_JITTER`` and what is refused of it."""

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import (
    ConfigError,
    add_augmentation_keys,
    check_augmentation,
    merge_overrides,
)


@pytest.fixture
def cfg():
    cfg = CfgNode({"INPUT": {"CROP": {"ENABLED": False}}})
    add_augmentation_keys(cfg)
    return cfg


def test_off_by_default_and_added_once(cfg):
    check_augmentation(cfg)
    assert not cfg.INPUT.SCALE_JITTER.ENABLED
    cfg.INPUT.SCALE_JITTER.SIZE = 512
    cfg.freeze()
    add_augmentation_keys(cfg)
    assert cfg.INPUT.SCALE_JITTER.SIZE == 512 and cfg.is_frozen()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["INPUT.SCALE_JITTER.RANGE", "(1.2, 0.8)"], "INPUT.SCALE_JITTER.RANGE must be two"),
        (["INPUT.SCALE_JITTER.RANGE", "(0, 1)"], "INPUT.SCALE_JITTER.RANGE must be two"),
        (["INPUT.SCALE_JITTER.RANGE", "(1,)"], "INPUT.SCALE_JITTER.RANGE must be two"),
        (["INPUT.SCALE_JITTER.RANGE", "('a', 'b')"], "INPUT.SCALE_JITTER.RANGE must be two"),
        (["INPUT.SCALE_JITTER.SIZE", "0"], "INPUT.SCALE_JITTER.SIZE must be at least 1, got 0"),
        (["INPUT.CROP.ENABLED", "True"], "INPUT.CROP.ENABLED: INPUT.SCALE_JITTER crops"),
    ],
)
def test_what_cannot_be_is_refused_by_key(cfg, overrides, message):
    merge_overrides(cfg, overrides)
    check_augmentation(cfg)  # off: nobody minds
    cfg.INPUT.SCALE_JITTER.ENABLED = True
    with pytest.raises(ConfigError, match=f"^{message}") as error:
        check_augmentation(cfg)
    assert "\n" not in str(error.value)
