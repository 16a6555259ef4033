"""Metric loggers of a training: ``metrics.json``, TensorBoard, and those in ``LOGGERS``."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from fvcore.common.config import CfgNode
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from ...atomic_file import atomic_write
from ...config import ConfigError
from ..processes import is_first_process
from .progress import MetricsFile

_SERVICES = ("mlflow", "wandb")  # each needs the package of its name
_PROJECT = "aa_detection"


def check_loggers(cfg: CfgNode) -> None:
    """Refuse a logger whose package is not installed.

    Raises:
        ConfigError: says how to install the package.
    """
    for name in cfg.LOGGERS:
        if name in _SERVICES and importlib.util.find_spec(name) is None:
            raise ConfigError(f"LOGGERS {name}: {name} is not installed; pip install {name}")


@contextlib.contextmanager
def open_loggers(cfg: CfgNode, resume: bool) -> Iterator[list[Logger]]:
    """Open the loggers of one training; W&B and MLflow runs are active inside ``with``.

    Args:
        resume: continue those runs, and start ``metrics.csv`` with the contents of
            ``metrics.json``.

    Raises:
        ConfigError: a service does not accept the run.
    """
    own = [TensorBoardLogger(cfg.OUTPUT_DIR, name="", version=""), MetricsFile(cfg.OUTPUT_DIR)]
    # each once, and only in the process that logs
    names = dict.fromkeys(cfg.LOGGERS) if is_first_process() else {}
    ids_path = os.path.join(cfg.OUTPUT_DIR, "loggers.json")
    ids: dict[str, str] = {}
    if resume and os.path.exists(ids_path):
        with open(ids_path, encoding="utf-8") as file:
            ids = json.load(file)
    opened: list[Logger] = []
    try:
        for name in names:
            logger = _start(name, _BUILD[name], cfg, ids.get(name))
            opened.append(logger)
            if name in _SERVICES:
                ids[name] = str(logger.version if name == "wandb" else logger.run_id)
                with atomic_write(ids_path, "w") as file:
                    json.dump(ids, file)
            elif resume:
                _repeat(os.path.join(cfg.OUTPUT_DIR, "metrics.json"), logger)
        yield [*own, *opened]
    finally:
        for logger in opened:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # otherwise the next run in this process continues it


def _csv(cfg: CfgNode, run: str | None) -> CSVLogger:
    return CSVLogger(cfg.OUTPUT_DIR, name="", version="", flush_logs_every_n_steps=1)


def _mlflow(cfg: CfgNode, run: str | None) -> MLFlowLogger:
    folder = os.path.abspath(cfg.OUTPUT_DIR)
    return MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        os.path.basename(folder),
        # MLflow no longer supports its file store
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db",
        run_id=run,
    )


def _wandb(cfg: CfgNode, run: str | None) -> WandbLogger:
    folder = os.path.abspath(cfg.OUTPUT_DIR)
    return WandbLogger(
        os.path.basename(folder),
        folder,
        id=run,
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
    )


_BUILD: dict[str, Callable[[CfgNode, str | None], Any]] = {
    "csv": _csv,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


def _start(name: str, build: Callable[[CfgNode, str | None], Any], cfg: CfgNode, run: Any) -> Any:
    try:
        logger = build(cfg, run)
        _ = logger.experiment
        if name in _SERVICES:
            logger.log_hyperparams(yaml.safe_load(cfg.dump()))
    except Exception as error:  # any error of a service's client: not logged in, no network, …
        line = str(error).strip().splitlines()
        raise ConfigError(
            f"LOGGERS {name}: cannot start: {line[0] if line else type(error).__name__}"
        ) from error
    return logger


def _repeat(metrics_file: str, logger: Logger) -> None:
    """Log again what a run had logged before it was interrupted."""
    if not os.path.exists(metrics_file):
        return
    with open(metrics_file, encoding="utf-8") as file:
        for row in map(json.loads, file):
            step = row.pop("iteration")
            logger.log_metrics(row, step=step)
