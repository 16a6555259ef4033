"""``MODEL.ATTENTION`` and what it means."""

import dataclasses
import logging

import pytest

from aa_detection.config import ConfigError, add_attention_keys, attention_spec, merge_overrides
from aa_detection.config.attention_keys import name_key
from aa_detection.models import STAGE_NAMES, AttentionSpec


def test_defaults_are_the_specs_without_attention(cfg):
    spec = dataclasses.asdict(attention_spec(cfg))
    expected = dataclasses.asdict(AttentionSpec(conv=""))
    assert spec.keys() == expected.keys()
    for field, value in expected.items():
        same = list(value) if isinstance(value, tuple) else value
        assert spec[field] == same, field


def test_adding_twice_keeps_the_values(cfg):
    cfg.MODEL.ATTENTION.CONV = "aa"
    add_attention_keys(cfg)
    assert cfg.MODEL.ATTENTION.CONV == "aa"


def test_adding_to_a_frozen_config_leaves_it_frozen(cfg):
    del cfg.MODEL["ATTENTION"]
    cfg.freeze()
    add_attention_keys(cfg)
    assert cfg.is_frozen()
    assert cfg.MODEL.ATTENTION.AA.NUM_HEADS == 8


def test_every_key_reaches_its_field(cfg):
    values = {
        "CONV": ("conv", "aa"),
        "GATE": ("gate", "cbam"),
        "STAGES": ("stages", ["res5"]),
        "AA.NUM_HEADS": ("num_heads", 4),
        "AA.KEY_RATIO": ("key_ratio", 0.5),
        "AA.VALUE_RATIO": ("value_ratio", 0.75),
        "AA.MIN_KEY_DEPTH_PER_HEAD": ("min_key_depth_per_head", 20),
        "AA.POOL_STAGES": ("pool_stages", ["res4"]),
        "AA.MERGE": ("merge", "add"),
        "AA.RELATIVE": ("relative", False),
        "AA.ABSOLUTE": ("absolute", True),
        "AA.MAX_IMAGE_SIZE": ("max_image_size", 224),
        "AA.MASK_PADDING": ("mask_padding", "attention"),
        "AA.BACKEND": ("backend", "dense"),
        "AW.REDUCTION": ("aw_reduction", 8),
        "SE.REDUCTION": ("gate_reduction", 4),
    }
    for key, (_, value) in values.items():
        merge_overrides(cfg, [f"MODEL.ATTENTION.{key}", str(value)])
    spec = dataclasses.asdict(attention_spec(cfg))
    assert spec.pop("size_divisibility") == 32  # the engines know it
    assert spec == dict(values.values())


def test_wrong_values_name_the_key(cfg):
    merge_overrides(cfg, ["MODEL.ATTENTION.STAGES", "['res1']"])
    with pytest.raises(ConfigError) as error:
        attention_spec(cfg)
    assert str(error.value) == (
        "MODEL.ATTENTION.STAGES: got ['res1'], expected a list, each one of "
        f"{', '.join(map(repr, STAGE_NAMES))}"
    )


@pytest.mark.parametrize(
    ("message", "named"),
    [
        # what augment() finds later, at the network
        (
            "num_heads must be at most out_channels = 64, got 96 (res2.conv1)",
            "MODEL.ATTENTION.AA.NUM_HEADS must be at most out_channels = 64, got 96 (res2.conv1)",
        ),
        ("stages: res3 is frozen", "MODEL.ATTENTION.STAGES: res3 is frozen"),
        ("res5.conv1 must be a Conv2d", "res5.conv1 must be a Conv2d"),
    ],
)
def test_naming_the_key_of_a_later_error(message, named):
    error = name_key(ValueError(message))
    assert isinstance(error, ConfigError) and str(error) == named


def test_config_without_the_keys_is_refused(cfg):
    del cfg.MODEL["ATTENTION"]
    with pytest.raises(ConfigError, match=r"^the config has no MODEL\.ATTENTION: call ") as error:
        attention_spec(cfg)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mean", "masks"),
    [
        ([103.53, 116.28, 123.675], True),
        ([104, 117, 123.5], True),
        ([0.0, 0.0, 0.0], False),
        ([104.0, 117.0, 123.0], False),
        ([104, 117, 123], False),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("key", "value"),
    [("CONV", "aa"), ("CONV", "aw"), ("GATE", "se"), ("AA.MASK_PADDING", "all")],
)
def test_padding_is_masked_only_where_zero_means_padding(cfg, caplog, mean, masks, key, value):
    cfg.MODEL.PIXEL_MEAN = mean
    merge_overrides(cfg, [f"MODEL.ATTENTION.{key}", value])
    with caplog.at_level(logging.WARNING):
        mask = attention_spec(cfg).mask_padding
    assert mask == (cfg.MODEL.ATTENTION.AA.MASK_PADDING if masks else "none")
    if masks:
        assert not caplog.records
    else:
        (record,) = caplog.records
        message = record.getMessage()
        assert record.levelno == logging.WARNING and "\n" not in message
        assert f"MODEL.PIXEL_MEAN {mean}" in message
        assert "MODEL.ATTENTION.AA.MASK_PADDING" in message


@pytest.mark.parametrize(
    ("conv", "mask"), [("", "auto"), ("", "attention"), ("", "none"), ("aa", "none")]
)
def test_no_warning_about_padding_nobody_masks(cfg, caplog, conv, mask):
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]
    cfg.MODEL.ATTENTION.CONV = conv
    cfg.MODEL.ATTENTION.AA.MASK_PADDING = mask
    with caplog.at_level(logging.WARNING):
        assert attention_spec(cfg).mask_padding == "none"
    assert not caplog.records


def test_detectron2s_own_config_takes_the_keys():
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_attention_keys(cfg)
    merge_overrides(cfg, ["MODEL.ATTENTION.CONV", "aa", "MODEL.ATTENTION.AA.VALUE_RATIO", "1"])
    spec = attention_spec(cfg)
    assert (spec.conv, spec.value_ratio, spec.mask_padding) == ("aa", 1.0, "auto")
    with pytest.raises(ConfigError, match="nearest known key is MODEL.RESNETS.DEPTH"):
        merge_overrides(cfg, ["MODEL.RESNET.DEPTH", "18"])
