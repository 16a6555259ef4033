"""Keys of the trainer: accumulation, averaging, best checkpoint, early stopping, logging."""

from collections.abc import Iterator, Mapping, Sequence

from fvcore.common.config import CfgNode

from .constraints import Choice, ListOf, Number, Text, whole
from .errors import ConfigError
from .keys import Key, add_keys

LOGGERS = ("csv", "mlflow", "wandb")
_TASKS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}

TRAINER_KEYS = (
    Key(
        "SOLVER.GRAD_ACCUM_STEPS",
        1,
        whole(1, 65536),
        "Number of parts into which a batch is split to fit into memory; their gradients are "
        "accumulated. An iteration is still one optimizer step on `SOLVER.IMS_PER_BATCH` images",
    ),
    Key(
        "SOLVER.EMA.DECAY",
        0.0,
        Number(0, 1, below=True),
        "Decay of an exponential moving average of the weights, such as 0.999; the average is "
        "evaluated and saved instead of the weights. 0 disables it",
    ),
    Key(
        "TEST.BEST_METRIC",
        "",
        Text(empty=True),
        "A name in `metrics.json`, such as `bbox/AP`; whenever an evaluation raises it to a new "
        "best, the weights are saved as `model_best.pth`",
    ),
    Key(
        "TEST.EARLY_STOPPING_PATIENCE",
        0,
        whole(0, 1_000_000, "evaluations"),
        "End training after this many evaluations in a row without a new best "
        "`TEST.BEST_METRIC`; 0 disables it",
    ),
    Key(
        "LOGGERS",
        [],
        ListOf(Choice(*LOGGERS)),
        "Loggers in addition to `metrics.json` and TensorBoard; embedded engine only",
    ),
)


def add_trainer_keys(cfg: CfgNode) -> None:
    """Add the keys with their defaults, which change nothing, to a config; idempotent."""
    add_keys(cfg, TRAINER_KEYS)


def check_best_metric(cfg: CfgNode, classes: Mapping[str, Sequence[str]]) -> None:
    """Refuse a best metric that no evaluation reports.

    Args:
        classes: class names by test dataset; empty if the dataset is not in COCO's format.

    Raises:
        ConfigError: names the key.
    """
    metric, patience = cfg.TEST.BEST_METRIC, cfg.TEST.EARLY_STOPPING_PATIENCE
    if not metric:
        if patience:
            raise ConfigError(
                f"TEST.EARLY_STOPPING_PATIENCE {patience} needs a TEST.BEST_METRIC, such as bbox/AP"
            )
        return
    for missing, expected in (
        (not cfg.DATASETS.TEST, "a dataset in DATASETS.TEST"),
        (not cfg.TEST.EVAL_PERIOD, "a TEST.EVAL_PERIOD above 0"),
    ):
        if missing:
            key = "TEST.EARLY_STOPPING_PATIENCE" if patience else "TEST.BEST_METRIC"
            raise ConfigError(f"{key} {patience or metric} needs {expected}")
    known = list(_metric_names(cfg, classes))
    if metric in known:
        return
    if "/AP-" in metric and not all(classes.values()):
        return
    overall = [name for name in known if "/AP-" not in name]
    raise ConfigError(
        f"TEST.BEST_METRIC {metric!r} is no metric of DATASETS.TEST: expected "
        f"{', '.join(overall)}, or AP-<class> of several classes"
    )


def _metric_names(cfg: CfgNode, classes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the names that both engines write into ``metrics.json``."""
    tasks = ["bbox", *(["segm"] if cfg.MODEL.MASK_ON else [])]
    tasks += ["keypoints"] if cfg.MODEL.get("KEYPOINT_ON", False) else []
    for dataset, names in classes.items():
        prefix = f"{dataset}/" if len(classes) > 1 else ""
        for task in tasks:
            yield from (f"{prefix}{task}/{metric}" for metric in _TASKS[task])
            if len(names) > 1:  # with one class it equals AP
                yield from (f"{prefix}{task}/AP-{name}" for name in names)


def check_averaging(cfg: CfgNode, averaged: bool) -> None:
    """Check, before a run resumes, that checkpoint and config agree on averaging.

    Raises:
        ConfigError: ``SOLVER.EMA.DECAY`` asks for an average that the checkpoint does not have, or
            the other way round.
    """
    decay = cfg.SOLVER.EMA.DECAY
    if averaged != bool(decay):
        has = "an average of the weights" if averaged else "no average of the weights"
        raise ConfigError(f"it has {has}, and SOLVER.EMA.DECAY is {decay}")
