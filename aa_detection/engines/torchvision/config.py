"""The part of detectron2's config that this engine honours; the rest is refused by name."""

from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode

from ...config import (
    ConfigError,
    add_attention_keys,
    add_augmentation_keys,
    add_dataset_keys,
    attention_spec,
    check_augmentation,
    check_values,
    coco_files,
    merge_overrides,
    merge_yaml,
)
from ...data import register_coco_dataset

# detectron2's names, and its defaults but for the two that only a RetinaNet can have here
DEFAULTS = {
    "VERSION": 2,
    "MODEL": {
        "DEVICE": "cuda",
        "META_ARCHITECTURE": "RetinaNet",
        "WEIGHTS": "",
        "PIXEL_MEAN": [103.530, 116.280, 123.675],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "MASK_ON": False,
        "BACKBONE": {"NAME": "build_retinanet_resnet_fpn_backbone", "FREEZE_AT": 2},
        "RESNETS": {
            "DEPTH": 50,
            "OUT_FEATURES": ["res3", "res4", "res5"],
            "NUM_GROUPS": 1,
            "NORM": "FrozenBN",
            "WIDTH_PER_GROUP": 64,
            "STRIDE_IN_1X1": True,
            "RES5_DILATION": 1,
            "RES2_OUT_CHANNELS": 256,
        },
        "FPN": {
            "IN_FEATURES": ["res3", "res4", "res5"],
            "OUT_CHANNELS": 256,
            "NORM": "",
            "FUSE_TYPE": "sum",
        },
        "ANCHOR_GENERATOR": {
            "NAME": "DefaultAnchorGenerator",
            "SIZES": [[32, 64, 128, 256, 512]],
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            "OFFSET": 0.0,
        },
        "RETINANET": {
            "NUM_CLASSES": 80,
            "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
            "NUM_CONVS": 4,
            "IOU_THRESHOLDS": [0.4, 0.5],
            "IOU_LABELS": [0, -1, 1],
            "PRIOR_PROB": 0.01,
            "SCORE_THRESH_TEST": 0.05,
            "TOPK_CANDIDATES_TEST": 1000,
            "NMS_THRESH_TEST": 0.5,
            "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
            "FOCAL_LOSS_GAMMA": 2.0,
            "FOCAL_LOSS_ALPHA": 0.25,
            "SMOOTH_L1_LOSS_BETA": 0.1,
            "BBOX_REG_LOSS_TYPE": "smooth_l1",
            "NORM": "",
        },
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": (800,),
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MAX_SIZE_TRAIN": 1333,
        "MIN_SIZE_TEST": 800,
        "MAX_SIZE_TEST": 1333,
        "RANDOM_FLIP": "horizontal",
        "FORMAT": "BGR",
    },
    "DATASETS": {"TRAIN": (), "TEST": ()},
    "DATALOADER": {
        "NUM_WORKERS": 4,
        "ASPECT_RATIO_GROUPING": True,
        "SAMPLER_TRAIN": "TrainingSampler",
        "FILTER_EMPTY_ANNOTATIONS": True,
    },
    "SOLVER": {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "MAX_ITER": 40000,
        "BASE_LR": 0.001,
        "BASE_LR_END": 0.0,
        "MOMENTUM": 0.9,
        "NESTEROV": False,
        "WEIGHT_DECAY": 0.0001,
        "WEIGHT_DECAY_NORM": 0.0,
        "GAMMA": 0.1,
        "STEPS": (30000,),
        "WARMUP_FACTOR": 1.0 / 1000,
        "WARMUP_ITERS": 1000,
        "WARMUP_METHOD": "linear",
        "CHECKPOINT_PERIOD": 5000,
        "IMS_PER_BATCH": 16,
        "REFERENCE_WORLD_SIZE": 0,
        "CLIP_GRADIENTS": {
            "ENABLED": False,
            "CLIP_TYPE": "value",
            "CLIP_VALUE": 1.0,
            "NORM_TYPE": 2.0,
        },
        "AMP": {"ENABLED": False},
    },
    "TEST": {"EVAL_PERIOD": 0, "DETECTIONS_PER_IMAGE": 100},
    "OUTPUT_DIR": "./output",
    "SEED": -1,
}

# what detectron2 has beyond that and this engine has not; its config.yaml names all of it, so what
# stands at detectron2's default is no reason to refuse
DETECTRON2_ONLY = {
    "MODEL": {
        "LOAD_PROPOSALS": False,
        "KEYPOINT_ON": False,
        "ANCHOR_GENERATOR": {"ANGLES": [[-90, 0, 90]]},
        "RESNETS": {
            "STEM_OUT_CHANNELS": 64,
            "DEFORM_ON_PER_STAGE": [False, False, False, False],
            "DEFORM_MODULATED": False,
            "DEFORM_NUM_GROUPS": 1,
        },
    },
    "INPUT": {
        "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
        "MASK_FORMAT": "polygon",
    },
    "DATASETS": {
        "PROPOSAL_FILES_TRAIN": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
        "PROPOSAL_FILES_TEST": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    },
    "DATALOADER": {"REPEAT_THRESHOLD": 0.0, "REPEAT_SQRT": True},
    "SOLVER": {
        "NUM_DECAYS": 3,
        "RESCALE_INTERVAL": False,
        "BIAS_LR_FACTOR": 1.0,
        "WEIGHT_DECAY_BIAS": None,
    },
    "TEST": {
        "EXPECTED_RESULTS": [],
        "KEYPOINT_OKS_SIGMAS": [],
        "AUG": {
            "ENABLED": False,
            "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
            "MAX_SIZE": 4000,
            "FLIP": True,
        },
        "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
    },
    "CUDNN_BENCHMARK": False,
    "FLOAT32_PRECISION": "",
    "VIS_PERIOD": 0,
    "GLOBAL": {"HACK": 1.0},
}
# groups below MODEL that no RetinaNet of detectron2's reads: a file may hold them
NOT_OF_A_RETINANET = (
    "PANOPTIC_FPN",
    "PROPOSAL_GENERATOR",
    "ROI_BOX_CASCADE_HEAD",
    "ROI_BOX_HEAD",
    "ROI_HEADS",
    "ROI_KEYPOINT_HEAD",
    "ROI_MASK_HEAD",
    "RPN",
    "SEM_SEG_HEAD",
)

# keys of which only some values are honoured
ALLOWED = {
    "VERSION": (2,),
    "MODEL.META_ARCHITECTURE": ("RetinaNet",),
    "MODEL.MASK_ON": (False,),
    "MODEL.BACKBONE.NAME": (
        "build_retinanet_resnet_fpn_backbone",
        "build_retinanet_aa_resnet_fpn_backbone",
    ),
    "MODEL.RESNETS.NORM": ("FrozenBN", "BN", "SyncBN", "GN"),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.OUT_FEATURES": (["res3", "res4", "res5"],),
    "MODEL.FPN.IN_FEATURES": (["res3", "res4", "res5"],),
    "MODEL.FPN.NORM": ("", "BN", "SyncBN", "GN"),
    "MODEL.FPN.FUSE_TYPE": ("sum",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.RETINANET.IN_FEATURES": (["p3", "p4", "p5", "p6", "p7"],),
    "MODEL.RETINANET.IOU_LABELS": ([0, -1, 1],),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": ("smooth_l1", "giou", "diou", "ciou"),
    "MODEL.RETINANET.NORM": ("", "GN"),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
}


def load_config(config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """This engine's defaults, attention's keys, the file and the overrides.

    The datasets of ``DATASETS.COCO_FILES`` are registered. ``MODEL.DEVICE`` cuda becomes cpu where
    there is no CUDA device.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value of another type or out of range, or
            one that only detectron2 honours.
        DatasetError: a dataset's name already stands for other files.
    """
    cfg = CfgNode(DEFAULTS)
    add_attention_keys(cfg)
    add_augmentation_keys(cfg)
    add_dataset_keys(cfg)
    _add(cfg, CfgNode(DETECTRON2_ONLY))
    for name in NOT_OF_A_RETINANET:
        cfg.MODEL[name] = CfgNode(new_allowed=True)
    merge_yaml(cfg, config_file)
    for key in overrides[::2]:  # whoever sets one now expects something of it
        if key.startswith(tuple(f"MODEL.{name}." for name in NOT_OF_A_RETINANET)):
            raise _needs_detectron2(f"the command line: {key}")
    merge_overrides(cfg, overrides)
    for name in NOT_OF_A_RETINANET:
        del cfg.MODEL[name]
    _remove(cfg, CfgNode(DETECTRON2_ONLY))
    _check_honoured(cfg)
    check_values(cfg)
    attention_spec(cfg)
    check_augmentation(cfg)
    for entry in coco_files(cfg):
        register_coco_dataset(*entry)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _add(cfg: CfgNode, more: CfgNode) -> None:
    for key, value in more.items():
        if isinstance(value, CfgNode) and key in cfg:
            _add(cfg[key], value)
        else:
            cfg[key] = value


def _remove(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> None:
    """Take out what only detectron2 has.

    Raises:
        ConfigError: a value of it that is not detectron2's default.
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
    for name, allowed in ALLOWED.items():
        value = _get(cfg, name)
        if value not in allowed:
            choices = ", ".join(repr(choice) for choice in allowed)
            raise ConfigError(
                f"{name} {value!r}: the torchvision engine honours {choices} only; "
                "detectron2 has the rest"
            )
    depth = cfg.MODEL.RESNETS.DEPTH
    if depth in (50, 101, 152) and cfg.MODEL.RESNETS.RES2_OUT_CHANNELS != 256:
        raise ConfigError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS must be 256 for a ResNet-{depth}, got "
            f"{cfg.MODEL.RESNETS.RES2_OUT_CHANNELS}"
        )


def _get(cfg: CfgNode, name: str) -> Any:
    for part in name.split("."):
        cfg = cfg[part]
    return cfg
