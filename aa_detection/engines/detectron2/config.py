"""detectron2's config with attention's keys."""

import difflib
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, defaults, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from fvcore.common.registry import Registry

from ...checkpoints import merge_config
from ...config import (
    ConfigError,
    add_attention_keys,
    add_augmentation_keys,
    add_dataset_keys,
    add_trainer_keys,
    check_values,
    coco_files,
    merge_overrides,
)
from ...data import register_coco_dataset


def add_aa_config(cfg: CfgNode) -> None:
    """Add this project's keys to a detectron2 config.

    See :func:`aa_detection.add_aa_config`; importing this package registered the backbones.
    """
    add_attention_keys(cfg)
    add_augmentation_keys(cfg)
    add_dataset_keys(cfg)
    add_trainer_keys(cfg)


def add_to_defaults() -> None:
    """Add the keys to every config that ``detectron2.config.get_cfg()`` returns from now on."""
    add_aa_config(defaults._C)


def load_config(config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Return detectron2's defaults with attention's keys, the file and the overrides on top.

    Registers the datasets of ``DATASETS.COCO_FILES``. Without a CUDA device, ``MODEL.DEVICE`` cuda
    becomes cpu.

    Raises:
        ConfigError: see :func:`aa_detection.checkpoints.merge_config`.
        DatasetError: a dataset's name is already taken by other files.
    """
    cfg = get_cfg()
    add_aa_config(cfg)
    merge_config(cfg, config_file)
    merge_overrides(cfg, overrides)
    check_values(cfg)
    _check_registered("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY)
    _check_registered("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY)
    for entry in coco_files(cfg):
        register_coco_dataset(*entry)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _check_registered(key: str, name: str, registry: Registry) -> None:
    known = [each for each, _ in registry]
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {nearest[0]}?" if nearest else f", known: {', '.join(known)}"
        raise ConfigError(f"{key} {name!r} is not registered{hint}")
