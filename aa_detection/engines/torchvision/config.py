"""The part of detectron2's config that this engine supports; other keys are refused by name."""

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode

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
from ...config.constraints import get, refusal
from ...config.detectron2_keys import (
    KEYS,
    NOT_OF_A_RETINANET,
    detectron2_only,
    honoured,
    nested,
)
from ...data import register_coco_dataset


def load_config(config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Return this engine's defaults with attention's keys, the file and the overrides on top.

    Registers the datasets of ``DATASETS.COCO_FILES``. Without a CUDA device, ``MODEL.DEVICE`` cuda
    becomes cpu.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value of another type or out of range, or
            one that only detectron2 supports.
        DatasetError: a dataset's name is already taken by other files.
    """
    cfg = CfgNode(nested(KEYS))
    add_attention_keys(cfg)
    add_augmentation_keys(cfg)
    add_dataset_keys(cfg)
    add_trainer_keys(cfg)
    for name in NOT_OF_A_RETINANET:
        cfg.MODEL[name] = CfgNode(new_allowed=True)
    merge_config(cfg, config_file)
    for key in overrides[::2]:  # a key set on the command line must have an effect
        if key.startswith(tuple(f"MODEL.{name}." for name in NOT_OF_A_RETINANET)):
            raise _needs_detectron2(f"the command line: {key}")
    merge_overrides(cfg, overrides)
    for name in NOT_OF_A_RETINANET:
        del cfg.MODEL[name]
    _remove(cfg, CfgNode(nested(detectron2_only())))
    _check_honoured(cfg)
    check_values(cfg)
    for entry in coco_files(cfg):
        register_coco_dataset(*entry)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _remove(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> None:
    """Remove keys that only detectron2 has.

    Raises:
        ConfigError: such a key differs from detectron2's default.
    """
    for key, default in defaults.items():
        if isinstance(default, CfgNode):
            _remove(cfg[key], default, f"{prefix}{key}.")
            if not cfg[key]:
                del cfg[key]
        elif cfg[key] != default:
            raise _needs_detectron2(f"{prefix}{key} {cfg[key]!r}")
        else:
            del cfg[key]


def _needs_detectron2(what: str) -> ConfigError:
    return ConfigError(f"{what} needs detectron2; the torchvision engine cannot honour it")


def _check_honoured(cfg: CfgNode) -> None:
    for name, key in honoured().items():
        value = get(cfg, name)
        if key.embedded is not None and value not in key.embedded:
            choices = ", ".join(map(repr, key.embedded))
            raise refusal(
                name, value, f"{choices} on the torchvision engine; detectron2 has the rest"
            )
    depth = cfg.MODEL.RESNETS.DEPTH
    if depth in (50, 101, 152) and cfg.MODEL.RESNETS.RES2_OUT_CHANNELS != 256:
        raise refusal(
            "MODEL.RESNETS.RES2_OUT_CHANNELS",
            cfg.MODEL.RESNETS.RES2_OUT_CHANNELS,
            f"256 for a ResNet-{depth} on the torchvision engine",
        )
