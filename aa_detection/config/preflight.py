"""Checks for settings that build but cannot train, or leave nothing to evaluate."""

import os

from fvcore.common.config import CfgNode

from .errors import ConfigError


def check_training(cfg: CfgNode) -> None:
    """Refuse to train without data, or from random weights where a checkpoint is required.

    Raises:
        ConfigError: names the keys to set.
    """
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty; name a dataset or use --train-json")
    if cfg.MODEL.WEIGHTS:
        return
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        raise ConfigError(
            "MODEL.RESNETS.NORM FrozenBN needs a checkpoint's statistics, but MODEL.WEIGHTS is "
            "empty: name a checkpoint, or set MODEL.RESNETS.NORM to BN, SyncBN or GN"
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT {cfg.MODEL.BACKBONE.FREEZE_AT} would keep random weights: "
            "MODEL.WEIGHTS is empty; name a checkpoint, or set MODEL.BACKBONE.FREEZE_AT to 0"
        )


def check_shares(cfg: CfgNode, processes: int) -> None:
    """Refuse a batch that cannot be split evenly over the processes.

    Raises:
        ConfigError: names the keys.
    """
    solver = cfg.SOLVER
    reference = solver.REFERENCE_WORLD_SIZE
    share = solver.IMS_PER_BATCH // (reference or processes)
    if reference not in (0, processes):  # the batch and other settings are scaled from it
        if solver.IMS_PER_BATCH % reference:
            raise ConfigError(
                f"SOLVER.REFERENCE_WORLD_SIZE {reference} must divide SOLVER.IMS_PER_BATCH "
                f"{solver.IMS_PER_BATCH}"
            )
    elif solver.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} cannot be shared by {processes} "
            "processes: expected a multiple of their number"
        )
    if share % solver.GRAD_ACCUM_STEPS:
        raise ConfigError(
            f"SOLVER.GRAD_ACCUM_STEPS {solver.GRAD_ACCUM_STEPS} must divide the {share} images of "
            f"a process (SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH})"
        )


def number_of_classes(cfg: CfgNode) -> tuple[str, int]:
    """Return the key that sets the head's number of classes, and its value.

    detectron2 has one key per kind of head and ignores the others.
    """
    head = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
    return f"MODEL.{head}.NUM_CLASSES", cfg.MODEL[head].NUM_CLASSES


def check_evaluation(cfg: CfgNode) -> None:
    """Refuse to evaluate without data.

    Raises:
        ConfigError: names the key to set.
    """
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; name a dataset or use --val-json")


def default_to_final_weights(cfg: CfgNode) -> None:
    """Set an empty ``MODEL.WEIGHTS`` to the run's own ``OUTPUT_DIR/model_final.pth``.

    Raises:
        ConfigError: that file does not exist.
    """
    if cfg.MODEL.WEIGHTS:
        return
    final = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    if not os.path.isfile(final):
        raise ConfigError(f"MODEL.WEIGHTS is empty, and there is no {final}; name a checkpoint")
    cfg.MODEL.WEIGHTS = final
