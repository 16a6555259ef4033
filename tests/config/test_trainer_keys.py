"""Values that a trainer cannot work with are refused by name, before anything starts."""

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import ConfigError, add_trainer_keys, check_best_metric, check_shares
from aa_detection.config.constraints import require
from aa_detection.config.relations import check_average
from aa_detection.config.table import constraints

CLASSES = {"val": ["cat", "dog"]}


@pytest.fixture
def cfg():
    tree = {
        "MODEL": {"MASK_ON": False},
        "SOLVER": {"IMS_PER_BATCH": 16, "REFERENCE_WORLD_SIZE": 0},
        "DATASETS": {"TEST": ("val",)},
        "TEST": {"EVAL_PERIOD": 10},
    }
    cfg = CfgNode(tree)
    add_trainer_keys(cfg)
    return cfg


def test_the_defaults_are_sound(cfg):
    cfg.DATASETS.TEST, cfg.TEST.EVAL_PERIOD = (), 0
    check_best_metric(cfg, {})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.EMA.DECAY", 1.0, "got 1.0, expected a number at least 0 and below 1"),
        ("SOLVER.EMA.DECAY", -0.1, "got -0.1"),
        ("SOLVER.EMA.DECAY", float("nan"), "got nan"),
        ("SOLVER.GRAD_ACCUM_STEPS", 0, "got 0, expected a whole number from 1"),
        ("TEST.EARLY_STOPPING_PATIENCE", -1, "got -1, expected a whole number from 0"),
        ("LOGGERS", ["csv", "neptune"], "got .*neptune.*'csv', 'mlflow', 'wandb'"),
    ],
)
def test_a_value_out_of_range_is_refused(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=f"^{key}: {message}"):
        require(cfg, key, constraints()[key])


def test_precise_statistics_are_not_of_an_average(cfg):
    cfg.TEST.PRECISE_BN = CfgNode({"ENABLED": True})
    check_average(cfg)
    cfg.SOLVER.EMA.DECAY = 0.9
    with pytest.raises(ConfigError, match="^TEST.PRECISE_BN.ENABLED .* SOLVER.EMA.DECAY 0.9"):
        check_average(cfg)


@pytest.mark.parametrize("metric", ["bbox/AP", "bbox/APs", "bbox/AP-dog"])
def test_a_metric_of_coco_is_taken(cfg, metric):
    cfg.TEST.BEST_METRIC = metric
    check_best_metric(cfg, CLASSES)


@pytest.mark.parametrize("metric", ["AP", "bbox/mAP", "bbox/AP-cow", "segm/AP", "val/bbox/AP"])
def test_any_other_metric_is_refused(cfg, metric):
    cfg.TEST.BEST_METRIC = metric
    with pytest.raises(ConfigError, match=rf"^TEST.BEST_METRIC '{metric}' .*: expected bbox/AP, "):
        check_best_metric(cfg, CLASSES)


def test_masks_and_several_datasets_have_metrics_of_their_own(cfg):
    cfg.MODEL.MASK_ON, cfg.TEST.BEST_METRIC = True, "second/segm/AP75"
    cfg.DATASETS.TEST = ("val", "second")
    check_best_metric(cfg, {**CLASSES, "second": ["cat", "dog"]})
    cfg.TEST.BEST_METRIC = "segm/AP75"
    with pytest.raises(ConfigError, match="expected val/bbox/AP, "):
        check_best_metric(cfg, {**CLASSES, "second": ["cat", "dog"]})


def test_classes_that_nobody_knows_yet_may_be_named(cfg):
    cfg.TEST.BEST_METRIC = "bbox/AP-cow"
    check_best_metric(cfg, {"val": []})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TEST.BEST_METRIC": ""}, "TEST.EARLY_STOPPING_PATIENCE 3 needs a TEST.BEST_METRIC"),
        ({"TEST.EVAL_PERIOD": 0}, "TEST.EARLY_STOPPING_PATIENCE 3 needs a TEST.EVAL_PERIOD"),
        ({"DATASETS.TEST": ()}, "TEST.EARLY_STOPPING_PATIENCE 3 needs a dataset in DATASETS.TEST"),
        (
            {"TEST.EVAL_PERIOD": 0, "TEST.EARLY_STOPPING_PATIENCE": 0},
            "TEST.BEST_METRIC bbox/AP needs a TEST.EVAL_PERIOD above 0",
        ),
    ],
)
def test_patience_without_evaluations_is_refused(cfg, changes, message):
    keys = {"TEST.BEST_METRIC": "bbox/AP", "TEST.EARLY_STOPPING_PATIENCE": 3, **changes}
    cfg.merge_from_list([word for pair in keys.items() for word in pair])
    with pytest.raises(ConfigError, match=f"^{message}"):
        check_best_metric(cfg, CLASSES)


@pytest.mark.parametrize(
    ("processes", "reference", "steps", "accepted"),
    [(1, 0, 16, True), (1, 0, 3, False), (4, 0, 4, True), (4, 0, 8, False), (1, 8, 2, True),
     (1, 8, 4, False)],
)  # fmt: skip
def test_parts_must_divide_a_processs_images(cfg, processes, reference, steps, accepted):
    cfg.SOLVER.GRAD_ACCUM_STEPS, cfg.SOLVER.REFERENCE_WORLD_SIZE = steps, reference
    if accepted:
        check_shares(cfg, processes)
    else:
        with pytest.raises(ConfigError, match="^SOLVER.GRAD_ACCUM_STEPS . must divide the "):
            check_shares(cfg, processes)
