"""detectron2's keys: defaults, allowed values, and the values that the embedded engine supports."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .constraints import Choice, Constraint, Device, Flag, Levels, ListOf, Number, Text, whole

DEFAULT = ()  # for `embedded`: only the default


class Detectron2Key(NamedTuple):
    """One key.

    Attributes:
        default: detectron2's, except for the four that must suit a RetinaNet here.
        allowed: on both engines; None for a key that this project leaves to detectron2.
        embedded: the values that the embedded engine supports; None for all, :data:`DEFAULT` for a
            key that only detectron2 reads.
    """

    default: Any
    allowed: Constraint | None = None
    embedded: Sequence[Any] | None = None


# The bounds are far from anything used in training. They exclude what no machine has memory for and
# what would overflow.
_FLAG = Flag()
_NAMES = ListOf(Text())
_ITERATIONS = 10**12
_COUNT = whole(1, 10**9)
CLASSES = whole(1, 10**6)  # for any head
_SHARE = Number(0, 1)
_FACTOR = Number(0, 10**6)
_SIZE = whole(0, 32768, "pixels; 0 resizes nothing")
_LONGEST = whole(1, 10**9)
_NORM = Choice(
    "", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN"
)
_PIXEL = Number(-(10**6), 10**6)
_PIXEL_SCALE = Number(10**-6, 10**6)
_RETINANET_STAGES = ["res3", "res4", "res5"]
_RETINANET_LEVELS = ["p3", "p4", "p5", "p6", "p7"]

KEYS = {
    "VERSION": Detectron2Key(2, whole(1, 2), embedded=(2,)),
    "MODEL.DEVICE": Detectron2Key("cuda", Device()),
    "MODEL.META_ARCHITECTURE": Detectron2Key("RetinaNet", Text(), embedded=("RetinaNet",)),
    "MODEL.WEIGHTS": Detectron2Key("", Text(empty=True)),
    "MODEL.PIXEL_MEAN": Detectron2Key([103.53, 116.28, 123.675], ListOf(_PIXEL, least=1)),
    "MODEL.PIXEL_STD": Detectron2Key([1.0, 1.0, 1.0], ListOf(_PIXEL_SCALE, least=1)),
    "MODEL.MASK_ON": Detectron2Key(False, _FLAG, embedded=(False,)),
    "MODEL.BACKBONE.NAME": Detectron2Key(
        "build_retinanet_resnet_fpn_backbone",
        Text(),
        embedded=("build_retinanet_resnet_fpn_backbone", "build_retinanet_aa_resnet_fpn_backbone"),
    ),
    "MODEL.BACKBONE.FREEZE_AT": Detectron2Key(2, whole(0, 5)),
    "MODEL.RESNETS.DEPTH": Detectron2Key(50, Choice(18, 34, 50, 101, 152)),
    "MODEL.RESNETS.OUT_FEATURES": Detectron2Key(
        _RETINANET_STAGES, _NAMES, embedded=(_RETINANET_STAGES,)
    ),
    "MODEL.RESNETS.NUM_GROUPS": Detectron2Key(1, whole(1, 4096)),
    "MODEL.RESNETS.NORM": Detectron2Key(
        "FrozenBN", _NORM, embedded=("FrozenBN", "BN", "SyncBN", "GN")
    ),
    "MODEL.RESNETS.WIDTH_PER_GROUP": Detectron2Key(64, whole(1, 4096)),
    "MODEL.RESNETS.STRIDE_IN_1X1": Detectron2Key(True, _FLAG),
    "MODEL.RESNETS.RES5_DILATION": Detectron2Key(1, Choice(1, 2), embedded=(1,)),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": Detectron2Key(256, whole(1, 4096)),
    "MODEL.FPN.IN_FEATURES": Detectron2Key(
        _RETINANET_STAGES, _NAMES, embedded=(_RETINANET_STAGES,)
    ),
    "MODEL.FPN.OUT_CHANNELS": Detectron2Key(256, whole(1, 4096)),
    "MODEL.FPN.NORM": Detectron2Key("", _NORM, embedded=("", "BN", "SyncBN", "GN")),
    "MODEL.FPN.FUSE_TYPE": Detectron2Key("sum", Choice("sum", "avg"), embedded=("sum",)),
    "MODEL.ANCHOR_GENERATOR.NAME": Detectron2Key(
        "DefaultAnchorGenerator", Text(), embedded=("DefaultAnchorGenerator",)
    ),
    "MODEL.ANCHOR_GENERATOR.SIZES": Detectron2Key(
        [[32, 64, 128, 256, 512]], Levels(Number(0.01, 10**6))
    ),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Detectron2Key(
        [[0.5, 1.0, 2.0]], Levels(Number(0.001, 1000))
    ),
    "MODEL.ANCHOR_GENERATOR.OFFSET": Detectron2Key(0.0, Number(0, 1, below=True)),
    "MODEL.RETINANET.NUM_CLASSES": Detectron2Key(80, CLASSES),
    "MODEL.RETINANET.IN_FEATURES": Detectron2Key(
        _RETINANET_LEVELS, ListOf(Text(), least=1), embedded=(_RETINANET_LEVELS,)
    ),
    "MODEL.RETINANET.NUM_CONVS": Detectron2Key(4, whole(0, 1000)),
    "MODEL.RETINANET.IOU_THRESHOLDS": Detectron2Key(
        [0.4, 0.5], ListOf(Number(0, 1, above=True), least=1, order="sorted")
    ),
    "MODEL.RETINANET.IOU_LABELS": Detectron2Key(
        [0, -1, 1], ListOf(Choice(-1, 0, 1), least=2), embedded=([0, -1, 1],)
    ),
    "MODEL.RETINANET.PRIOR_PROB": Detectron2Key(0.01, Number(1e-9, 1, below=True)),
    "MODEL.RETINANET.SCORE_THRESH_TEST": Detectron2Key(0.05, _SHARE),
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": Detectron2Key(1000, _COUNT),
    "MODEL.RETINANET.NMS_THRESH_TEST": Detectron2Key(0.5, _SHARE),
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": Detectron2Key(
        (1.0, 1.0, 1.0, 1.0), ListOf(Number(10**-6, 10**6), 4, 4)
    ),
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": Detectron2Key(2.0, Number(0, 100)),
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": Detectron2Key(
        0.25, Number(-1, 1, note="below 0: no weights")
    ),
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": Detectron2Key(0.1, _FACTOR),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": Detectron2Key(
        "smooth_l1", Choice("smooth_l1", "giou", "diou", "ciou")
    ),
    "MODEL.RETINANET.NORM": Detectron2Key("", _NORM, embedded=("", "GN")),
    "INPUT.MIN_SIZE_TRAIN": Detectron2Key((800,), ListOf(_SIZE, least=1)),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": Detectron2Key("choice", Choice("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": Detectron2Key(1333, _LONGEST),
    "INPUT.MIN_SIZE_TEST": Detectron2Key(800, _SIZE),
    "INPUT.MAX_SIZE_TEST": Detectron2Key(1333, _LONGEST),
    "INPUT.RANDOM_FLIP": Detectron2Key("horizontal", Choice("horizontal", "vertical", "none")),
    "INPUT.FORMAT": Detectron2Key(
        "BGR", Choice("BGR", "RGB", "L", "YUV-BT.601"), embedded=("BGR", "RGB")
    ),
    "DATASETS.TRAIN": Detectron2Key((), _NAMES),
    "DATASETS.TEST": Detectron2Key((), _NAMES),
    "DATALOADER.NUM_WORKERS": Detectron2Key(4, whole(0, 1024)),
    "DATALOADER.ASPECT_RATIO_GROUPING": Detectron2Key(True, _FLAG),
    "DATALOADER.SAMPLER_TRAIN": Detectron2Key(
        "TrainingSampler",
        Choice("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"),
        embedded=("TrainingSampler",),
    ),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": Detectron2Key(True, _FLAG),
    "SOLVER.LR_SCHEDULER_NAME": Detectron2Key(
        "WarmupMultiStepLR", Choice("WarmupMultiStepLR", "WarmupCosineLR")
    ),
    "SOLVER.MAX_ITER": Detectron2Key(40000, whole(1, _ITERATIONS)),
    "SOLVER.BASE_LR": Detectron2Key(0.001, Number(0, 10**6, above=True)),
    "SOLVER.BASE_LR_END": Detectron2Key(0.0, _FACTOR),
    "SOLVER.MOMENTUM": Detectron2Key(0.9, Number(0, 1, below=True)),
    "SOLVER.NESTEROV": Detectron2Key(False, _FLAG),
    "SOLVER.WEIGHT_DECAY": Detectron2Key(0.0001, _FACTOR),
    "SOLVER.WEIGHT_DECAY_NORM": Detectron2Key(0.0, _FACTOR),
    "SOLVER.GAMMA": Detectron2Key(0.1, Number(0, 1, above=True)),
    "SOLVER.STEPS": Detectron2Key((30000,), ListOf(whole(1, _ITERATIONS), order="increasing")),
    "SOLVER.WARMUP_FACTOR": Detectron2Key(1.0 / 1000, _SHARE),
    "SOLVER.WARMUP_ITERS": Detectron2Key(1000, whole(0, _ITERATIONS)),
    "SOLVER.WARMUP_METHOD": Detectron2Key("linear", Choice("linear", "constant")),
    "SOLVER.CHECKPOINT_PERIOD": Detectron2Key(5000, whole(1, _ITERATIONS)),
    "SOLVER.IMS_PER_BATCH": Detectron2Key(16, whole(1, 65536)),
    "SOLVER.REFERENCE_WORLD_SIZE": Detectron2Key(0, whole(0, 65536, "0 scales nothing")),
    "SOLVER.CLIP_GRADIENTS.ENABLED": Detectron2Key(False, _FLAG),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": Detectron2Key("value", Choice("value", "norm")),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": Detectron2Key(1.0, Number(0, 10**6, above=True)),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Detectron2Key(2.0, Number(1, math.inf)),
    "SOLVER.AMP.ENABLED": Detectron2Key(False, _FLAG),
    "TEST.EVAL_PERIOD": Detectron2Key(0, whole(0, _ITERATIONS, "0: at the end only")),
    "TEST.DETECTIONS_PER_IMAGE": Detectron2Key(100, _COUNT),
    "OUTPUT_DIR": Detectron2Key("./output", Text()),
    "SEED": Detectron2Key(-1, whole(-(2**31), 4 * 10**9, "negative: another for every run")),
    # not supported by the embedded engine; listed because detectron2's config.yaml contains them,
    # and their defaults are no reason to refuse a file
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
# groups below MODEL that no RetinaNet of detectron2 reads: a file may contain them
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
    """Return the keys that both engines read."""
    return {name: key for name, key in KEYS.items() if key.embedded != DEFAULT}


def detectron2_only() -> dict[str, Detectron2Key]:
    """Return the keys that the embedded engine refuses at any value other than the default."""
    return {name: key for name, key in KEYS.items() if key.embedded == DEFAULT}


def nested(keys: Mapping[str, Detectron2Key]) -> dict[str, Any]:
    """Return the defaults as nested groups, as in a config."""
    tree: dict[str, Any] = {}
    for name, key in keys.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = key.default
    return tree
