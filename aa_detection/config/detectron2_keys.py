"""detectron2's keys: defaults, values that make sense, and what the embedded engine honours."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

Check = tuple[str, Callable[[Any], bool]]  # what a value must be, in words, and whether it is
DEFAULT = ()  # of `embedded`: the default alone


class Detectron2Key(NamedTuple):
    """One key.

    Attributes:
        default: detectron2's, but for the four that only a RetinaNet can have here.
        check: of both engines; None where a run trips over no value of the type.
        embedded: the values that the embedded engine honours; None for all, :data:`DEFAULT` for a
            key that only detectron2 reads.
    """

    default: Any
    check: Check | None = None
    embedded: Sequence[Any] | None = None


def at_least(least: int) -> Check:
    """A check: numbers from there on."""
    return f"be at least {least}", partial(operator.le, least)


def _one_of(*choices: Any) -> Check:
    return f"be one of {', '.join(map(str, choices))}", choices.__contains__


def numbers(values: Sequence[Any]) -> bool:
    """Whether all are finite numbers."""
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _increasing(steps: Sequence[Any]) -> bool:
    return numbers(steps) and all(low < high for low, high in zip((0, *steps), steps))


def _sizes(sizes: Sequence[Any]) -> bool:
    return len(sizes) > 0 and all(type(size) is int and size >= 0 for size in sizes)


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


KEYS = {
    "VERSION": Detectron2Key(2, embedded=(2,)),
    "MODEL.DEVICE": Detectron2Key("cuda", ("be cuda, cuda:<number> or cpu", _is_device)),
    "MODEL.META_ARCHITECTURE": Detectron2Key("RetinaNet", embedded=("RetinaNet",)),
    "MODEL.WEIGHTS": Detectron2Key(""),
    "MODEL.PIXEL_MEAN": Detectron2Key([103.53, 116.28, 123.675]),
    "MODEL.PIXEL_STD": Detectron2Key([1.0, 1.0, 1.0]),
    "MODEL.MASK_ON": Detectron2Key(False, embedded=(False,)),
    "MODEL.BACKBONE.NAME": Detectron2Key(
        "build_retinanet_resnet_fpn_backbone",
        embedded=("build_retinanet_resnet_fpn_backbone", "build_retinanet_aa_resnet_fpn_backbone"),
    ),
    "MODEL.BACKBONE.FREEZE_AT": Detectron2Key(2),
    "MODEL.RESNETS.DEPTH": Detectron2Key(50, _one_of(18, 34, 50, 101, 152)),
    "MODEL.RESNETS.OUT_FEATURES": Detectron2Key(
        ["res3", "res4", "res5"], embedded=(["res3", "res4", "res5"],)
    ),
    "MODEL.RESNETS.NUM_GROUPS": Detectron2Key(1),
    "MODEL.RESNETS.NORM": Detectron2Key("FrozenBN", embedded=("FrozenBN", "BN", "SyncBN", "GN")),
    "MODEL.RESNETS.WIDTH_PER_GROUP": Detectron2Key(64),
    "MODEL.RESNETS.STRIDE_IN_1X1": Detectron2Key(True),
    "MODEL.RESNETS.RES5_DILATION": Detectron2Key(1, embedded=(1,)),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": Detectron2Key(256),
    "MODEL.FPN.IN_FEATURES": Detectron2Key(
        ["res3", "res4", "res5"], embedded=(["res3", "res4", "res5"],)
    ),
    "MODEL.FPN.OUT_CHANNELS": Detectron2Key(256, at_least(1)),
    "MODEL.FPN.NORM": Detectron2Key("", embedded=("", "BN", "SyncBN", "GN")),
    "MODEL.FPN.FUSE_TYPE": Detectron2Key("sum", embedded=("sum",)),
    "MODEL.ANCHOR_GENERATOR.NAME": Detectron2Key(
        "DefaultAnchorGenerator", embedded=("DefaultAnchorGenerator",)
    ),
    "MODEL.ANCHOR_GENERATOR.SIZES": Detectron2Key([[32, 64, 128, 256, 512]]),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Detectron2Key([[0.5, 1.0, 2.0]]),
    "MODEL.ANCHOR_GENERATOR.OFFSET": Detectron2Key(0.0),
    "MODEL.RETINANET.NUM_CLASSES": Detectron2Key(80),
    "MODEL.RETINANET.IN_FEATURES": Detectron2Key(
        ["p3", "p4", "p5", "p6", "p7"], embedded=(["p3", "p4", "p5", "p6", "p7"],)
    ),
    "MODEL.RETINANET.NUM_CONVS": Detectron2Key(4, at_least(0)),
    "MODEL.RETINANET.IOU_THRESHOLDS": Detectron2Key([0.4, 0.5]),
    "MODEL.RETINANET.IOU_LABELS": Detectron2Key([0, -1, 1], embedded=([0, -1, 1],)),
    "MODEL.RETINANET.PRIOR_PROB": Detectron2Key(0.01),
    "MODEL.RETINANET.SCORE_THRESH_TEST": Detectron2Key(0.05),
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": Detectron2Key(1000),
    "MODEL.RETINANET.NMS_THRESH_TEST": Detectron2Key(0.5),
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": Detectron2Key((1.0, 1.0, 1.0, 1.0)),
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": Detectron2Key(2.0),
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": Detectron2Key(0.25),
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": Detectron2Key(0.1),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": Detectron2Key(
        "smooth_l1", embedded=("smooth_l1", "giou", "diou", "ciou")
    ),
    "MODEL.RETINANET.NORM": Detectron2Key("", embedded=("", "GN")),
    "INPUT.MIN_SIZE_TRAIN": Detectron2Key((800,), ("be one or more sizes of at least 0", _sizes)),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": Detectron2Key("choice", _one_of("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": Detectron2Key(1333, at_least(1)),
    "INPUT.MIN_SIZE_TEST": Detectron2Key(800, at_least(0)),
    "INPUT.MAX_SIZE_TEST": Detectron2Key(1333, at_least(1)),
    "INPUT.RANDOM_FLIP": Detectron2Key("horizontal", _one_of("horizontal", "vertical", "none")),
    "INPUT.FORMAT": Detectron2Key(
        "BGR", _one_of("BGR", "RGB", "L", "YUV-BT.601"), embedded=("BGR", "RGB")
    ),
    "DATASETS.TRAIN": Detectron2Key(()),
    "DATASETS.TEST": Detectron2Key(()),
    "DATALOADER.NUM_WORKERS": Detectron2Key(4, at_least(0)),
    "DATALOADER.ASPECT_RATIO_GROUPING": Detectron2Key(True),
    "DATALOADER.SAMPLER_TRAIN": Detectron2Key("TrainingSampler", embedded=("TrainingSampler",)),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": Detectron2Key(True),
    "SOLVER.LR_SCHEDULER_NAME": Detectron2Key(
        "WarmupMultiStepLR", _one_of("WarmupMultiStepLR", "WarmupCosineLR")
    ),
    "SOLVER.MAX_ITER": Detectron2Key(40000, at_least(1)),
    "SOLVER.BASE_LR": Detectron2Key(
        0.001, ("be finite and above 0", lambda value: 0 < value < math.inf)
    ),
    "SOLVER.BASE_LR_END": Detectron2Key(0.0),
    "SOLVER.MOMENTUM": Detectron2Key(
        0.9, ("be at least 0 and below 1", lambda value: 0 <= value < 1)
    ),
    "SOLVER.NESTEROV": Detectron2Key(False),
    "SOLVER.WEIGHT_DECAY": Detectron2Key(
        0.0001, ("be finite and at least 0", lambda value: 0 <= value < math.inf)
    ),
    "SOLVER.WEIGHT_DECAY_NORM": Detectron2Key(0.0),
    "SOLVER.GAMMA": Detectron2Key(
        0.1, ("be finite and above 0", lambda value: 0 < value < math.inf)
    ),
    "SOLVER.STEPS": Detectron2Key((30000,), ("be iterations above 0, in order", _increasing)),
    "SOLVER.WARMUP_FACTOR": Detectron2Key(1.0 / 1000),
    "SOLVER.WARMUP_ITERS": Detectron2Key(1000, at_least(0)),
    "SOLVER.WARMUP_METHOD": Detectron2Key("linear", _one_of("linear", "constant")),
    "SOLVER.CHECKPOINT_PERIOD": Detectron2Key(5000, at_least(1)),
    "SOLVER.IMS_PER_BATCH": Detectron2Key(16, at_least(1)),
    "SOLVER.REFERENCE_WORLD_SIZE": Detectron2Key(0, at_least(0)),
    "SOLVER.CLIP_GRADIENTS.ENABLED": Detectron2Key(False),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": Detectron2Key("value", embedded=("value", "norm")),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": Detectron2Key(1.0),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Detectron2Key(2.0),
    "SOLVER.AMP.ENABLED": Detectron2Key(False),
    "TEST.EVAL_PERIOD": Detectron2Key(0, at_least(0)),
    "TEST.DETECTIONS_PER_IMAGE": Detectron2Key(100, at_least(1)),
    "OUTPUT_DIR": Detectron2Key("./output"),
    "SEED": Detectron2Key(-1),
    # not honoured by the embedded engine; detectron2's config.yaml names them, so that their
    # defaults are no reason to refuse
    "MODEL.LOAD_PROPOSALS": Detectron2Key(False, embedded=DEFAULT),
    "MODEL.KEYPOINT_ON": Detectron2Key(False, embedded=DEFAULT),
    "MODEL.ANCHOR_GENERATOR.ANGLES": Detectron2Key([[-90, 0, 90]], embedded=DEFAULT),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": Detectron2Key(64, embedded=DEFAULT),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": Detectron2Key(
        [False, False, False, False], embedded=DEFAULT
    ),
    "MODEL.RESNETS.DEFORM_MODULATED": Detectron2Key(False, embedded=DEFAULT),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": Detectron2Key(1, embedded=DEFAULT),
    "INPUT.CROP.ENABLED": Detectron2Key(False, embedded=DEFAULT),
    "INPUT.CROP.TYPE": Detectron2Key("relative_range", embedded=DEFAULT),
    "INPUT.CROP.SIZE": Detectron2Key([0.9, 0.9], embedded=DEFAULT),
    "INPUT.MASK_FORMAT": Detectron2Key("polygon", embedded=DEFAULT),
    "DATASETS.PROPOSAL_FILES_TRAIN": Detectron2Key((), embedded=DEFAULT),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": Detectron2Key(2000, embedded=DEFAULT),
    "DATASETS.PROPOSAL_FILES_TEST": Detectron2Key((), embedded=DEFAULT),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": Detectron2Key(1000, embedded=DEFAULT),
    "DATALOADER.REPEAT_THRESHOLD": Detectron2Key(0.0, embedded=DEFAULT),
    "DATALOADER.REPEAT_SQRT": Detectron2Key(True, embedded=DEFAULT),
    "SOLVER.NUM_DECAYS": Detectron2Key(3, embedded=DEFAULT),
    "SOLVER.RESCALE_INTERVAL": Detectron2Key(False, embedded=DEFAULT),
    "SOLVER.BIAS_LR_FACTOR": Detectron2Key(1.0, embedded=DEFAULT),
    "SOLVER.WEIGHT_DECAY_BIAS": Detectron2Key(None, embedded=DEFAULT),
    "TEST.EXPECTED_RESULTS": Detectron2Key([], embedded=DEFAULT),
    "TEST.KEYPOINT_OKS_SIGMAS": Detectron2Key([], embedded=DEFAULT),
    "TEST.AUG.ENABLED": Detectron2Key(False, embedded=DEFAULT),
    "TEST.AUG.MIN_SIZES": Detectron2Key(
        (400, 500, 600, 700, 800, 900, 1000, 1100, 1200), embedded=DEFAULT
    ),
    "TEST.AUG.MAX_SIZE": Detectron2Key(4000, embedded=DEFAULT),
    "TEST.AUG.FLIP": Detectron2Key(True, embedded=DEFAULT),
    "TEST.PRECISE_BN.ENABLED": Detectron2Key(False, embedded=DEFAULT),
    "TEST.PRECISE_BN.NUM_ITER": Detectron2Key(200, embedded=DEFAULT),
    "CUDNN_BENCHMARK": Detectron2Key(False, embedded=DEFAULT),
    "FLOAT32_PRECISION": Detectron2Key("", embedded=DEFAULT),
    "VIS_PERIOD": Detectron2Key(0, embedded=DEFAULT),
    "GLOBAL.HACK": Detectron2Key(1.0, embedded=DEFAULT),
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


def honoured() -> dict[str, Detectron2Key]:
    """The keys that both engines read."""
    return {name: key for name, key in KEYS.items() if key.embedded != DEFAULT}


def detectron2_only() -> dict[str, Detectron2Key]:
    """The keys that the embedded engine refuses at another value than the default."""
    return {name: key for name, key in KEYS.items() if key.embedded == DEFAULT}


def nested(keys: Mapping[str, Detectron2Key]) -> dict[str, Any]:
    """The defaults as a config has them, group in group."""
    tree: dict[str, Any] = {}
    for name, key in keys.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = key.default
    return tree
