"""The part of detectron2's config that this engine honours; the rest is refused by name."""

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode

from ...config import (
    ConfigError,
    UnknownKeyError,
    add_attention_keys,
    add_augmentation_keys,
    attention_spec,
    check_augmentation,
    merge_overrides,
    merge_yaml,
)

# detectron2's names, and its defaults but for the two that only a RetinaNet can have here
_DEFAULTS = {
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

# what detectron2 has beyond that; a key below one of these gets this engine's refusal and not the
# one of a typing error
_DETECTRON2_ONLY = (
    "CUDNN_BENCHMARK",
    "DATALOADER.REPEAT_",
    "DATASETS.PRECOMPUTED_PROPOSAL_",
    "DATASETS.PROPOSAL_FILES_",
    "FLOAT32_PRECISION",
    "GLOBAL",
    "INPUT.CROP",
    "INPUT.MASK_FORMAT",
    "MODEL.ANCHOR_GENERATOR.ANGLES",
    "MODEL.KEYPOINT_ON",
    "MODEL.LOAD_PROPOSALS",
    "MODEL.PANOPTIC_FPN",
    "MODEL.PROPOSAL_GENERATOR",
    "MODEL.RESNETS.DEFORM_",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.ROI_",
    "MODEL.RPN",
    "MODEL.SEM_SEG_HEAD",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.NUM_DECAYS",
    "SOLVER.RESCALE_INTERVAL",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "TEST.AUG",
    "TEST.EXPECTED_RESULTS",
    "TEST.KEYPOINT_OKS_SIGMAS",
    "TEST.PRECISE_BN",
    "VIS_PERIOD",
)

# keys of which only some values are honoured
_ALLOWED = {
    "VERSION": (2,),
    "MODEL.META_ARCHITECTURE": ("RetinaNet",),
    "MODEL.MASK_ON": (False,),
    "MODEL.BACKBONE.NAME": (
        "build_retinanet_resnet_fpn_backbone",
        "build_retinanet_aa_resnet_fpn_backbone",
    ),
    "MODEL.RESNETS.DEPTH": (18, 34, 50, 101, 152),
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
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
}


def load_config(config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """This engine's defaults, attention's keys, the file and the overrides.

    ``MODEL.DEVICE`` cuda becomes cpu where there is no CUDA device.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value of another type or out of range, or
            one that only detectron2 honours.
    """
    cfg = CfgNode(_DEFAULTS)
    add_attention_keys(cfg)
    add_augmentation_keys(cfg)
    for merge, source in ((merge_yaml, config_file), (merge_overrides, overrides)):
        try:
            merge(cfg, source)
        except UnknownKeyError as error:
            if error.key.startswith(_DETECTRON2_ONLY):
                raise ConfigError(
                    f"{error.source}: {error.key} needs detectron2; the torchvision engine cannot "
                    "honour it"
                ) from None
            raise
    _check_values(cfg)
    attention_spec(cfg)
    check_augmentation(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _check_values(cfg: CfgNode) -> None:
    for name, allowed in _ALLOWED.items():
        value = _get(cfg, name)
        if value not in allowed:
            choices = ", ".join(repr(choice) for choice in allowed)
            raise ConfigError(
                f"{name} {value!r}: the torchvision engine honours {choices} only; "
                "detectron2 has the rest"
            )
    depth = cfg.MODEL.RESNETS.DEPTH
    res2 = 64 if depth in (18, 34) else 256
    for name, expected in (
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", res2),
        ("MODEL.RESNETS.NUM_GROUPS", 1 if res2 == 64 else cfg.MODEL.RESNETS.NUM_GROUPS),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", 64 if res2 == 64 else cfg.MODEL.RESNETS.WIDTH_PER_GROUP),
    ):
        if _get(cfg, name) != expected:
            raise ConfigError(
                f"{name} must be {expected} for a ResNet-{depth}, got {_get(cfg, name)}"
            )
    for name, least in (
        ("MODEL.RETINANET.NUM_CLASSES", 1),
        ("MODEL.RETINANET.NUM_CONVS", 0),
        ("MODEL.FPN.OUT_CHANNELS", 1),
        ("DATALOADER.NUM_WORKERS", 0),
        ("SOLVER.IMS_PER_BATCH", 1),
        ("SOLVER.MAX_ITER", 1),
        ("SOLVER.CHECKPOINT_PERIOD", 1),
        ("TEST.EVAL_PERIOD", 0),
    ):
        if _get(cfg, name) < least:
            raise ConfigError(f"{name} must be at least {least}, got {_get(cfg, name)}")


def _get(cfg: CfgNode, name: str):
    for part in name.split("."):
        cfg = cfg[part]
    return cfg
