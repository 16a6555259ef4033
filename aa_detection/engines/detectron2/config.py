"""detectron2's config with attention's keys."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg

from ...config import (
    add_attention_keys,
    add_augmentation_keys,
    attention_spec,
    check_augmentation,
    merge_overrides,
    merge_yaml,
)


def add_aa_config(cfg: CfgNode) -> None:
    """Add this project's keys to a detectron2 config and its backbones to the registry.

    See :func:`aa_detection.add_aa_config`; importing this package registered the backbones.
    """
    add_attention_keys(cfg)
    add_augmentation_keys(cfg)


def load_config(config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """detectron2's defaults, attention's keys, the file and the overrides.

    ``MODEL.DEVICE`` cuda becomes cpu where there is no CUDA device.

    Raises:
        ConfigError: see :func:`aa_detection.config.merge_yaml`.
    """
    cfg = get_cfg()
    add_aa_config(cfg)
    merge_yaml(cfg, config_file)
    merge_overrides(cfg, overrides)
    attention_spec(cfg)
    check_augmentation(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg
