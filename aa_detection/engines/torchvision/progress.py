"""Progress output of a training run: log lines, ``metrics.json``, TensorBoard."""

import datetime
import json
import logging
import math
import os
import resource
import statistics
import sys
import time
from collections import deque
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed

from ...data import CocoDataset
from ...inference import BaseDetector
from ...inference.samples import sample_pictures
from .accumulation import ends_step

PERIOD = 20  # iterations between two lines, and the window of their medians and means
_EVALUATION_PERIOD = 5.0  # seconds between two lines
_log = logging.getLogger(__name__)


class Progress(Callback):
    """Log a line every 20 iterations, and every few seconds during an evaluation.

    Training lines have the format of detectron2's ``CommonMetricPrinter``; the same numbers, under
    the same names, go to the trainer's loggers. Losses are medians over the period and means over
    the processes; times and memory are the first process's.
    """

    def __init__(self, max_iter: int) -> None:
        self.max_iter = max_iter
        self.losses: deque[list[float]] = deque(maxlen=PERIOD)
        self.times = HistoryBuffer()
        self.data_times = HistoryBuffer()
        # losses of the batch's parts so far
        self.parts: list[Tensor] = []
        self.time = self.data_time = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.mark = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.validation_start = self.said = time.perf_counter()
        self.images = 0

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.images += 1
        now = time.perf_counter()
        if now - self.said < _EVALUATION_PERIOD:
            return
        self.said = now
        seconds = (now - self.validation_start) / self.images
        left = sum(trainer.num_val_batches) - self.images
        _log.info(
            "evaluated %d of %d images  %.4f s / image  eta: %s",
            self.images,
            self.images + left,
            seconds,
            datetime.timedelta(seconds=int(seconds * left)),
        )

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.data_time += time.perf_counter() - self.mark
        # read it here: at the end of the step it is the schedule's next
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
    ) -> None:
        names = ["total_loss", *(name for name in outputs if name != "loss")]
        # Lightning has divided "loss" by the number of parts, but not the others
        total = outputs["loss"] * trainer.accumulate_grad_batches
        self.parts.append(torch.stack([total, *(outputs[name].detach() for name in names[1:])]))
        now = time.perf_counter()
        self.time += now - self.mark
        self.mark = now
        if not ends_step(trainer, batch_idx):
            return
        iteration = trainer.global_step - 1
        losses = module.loss_factor * torch.stack(self.parts).mean(dim=0)
        if distributed.is_initialized():
            distributed.all_reduce(losses)
            losses /= distributed.get_world_size()
        self.losses.append(losses.tolist())
        self.times.update(self.time)
        self.data_times.update(self.data_time)
        self.parts, self.time, self.data_time = [], 0.0, 0.0
        due = (iteration + 1) % PERIOD == 0 or iteration == self.max_iter - 1
        if due and trainer.is_global_zero:
            medians = [statistics.median(values) for values in zip(*self.losses)]
            self._write(trainer, iteration, dict(zip(names, medians)))

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}  # so that a resumed run logs the same medians

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses.clear()  # they were loaded for the repeated evaluation
        self.losses.extend(state_dict["losses"])

    def _write(self, trainer: Trainer, iteration: int, losses: dict[str, float]) -> None:
        metrics = {
            **losses,
            "time": self.times.median(PERIOD),
            "data_time": self.data_times.avg(PERIOD),
            "eta_seconds": self.times.median(1000) * (self.max_iter - 1 - iteration),
            "lr": self.lr,
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=iteration)
        texts = [
            f"eta: {datetime.timedelta(seconds=int(metrics['eta_seconds']))}",
            f"iter: {iteration}/{self.max_iter}",
            *(f"{name}: {value:.4g}" for name, value in losses.items()),
            f"time: {self.times.global_avg():.4f}",
            f"last_time: {self.times.latest():.4f}",
            f"data_time: {metrics['data_time']:.4f}",
            f"last_data_time: {self.data_times.latest():.4f}",
            f"lr: {metrics['lr']:.5g}",
            f"max_mem: {max_memory() / 2**20:.0f}M",
        ]
        _log.info(" %s", "  ".join(texts))


def show_samples(
    loggers: list[Logger],
    dataset: CocoDataset,
    detections: list[dict[str, Any]],
    detector: BaseDetector,
    step: int,
) -> None:
    """Log :func:`aa_detection.inference.samples.sample_pictures` to TensorBoard."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, picture in sample_pictures(dataset, detections, detector):
                logger.experiment.add_image(name, picture, step, dataformats="HWC")


def max_memory() -> int:
    """Return the peak memory in bytes: allocated on the GPU, or resident without a GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MetricsFile(Logger):
    """Write ``metrics.json`` like detectron2, one object per line."""

    name = "metrics"
    version = ""

    def __init__(self, output_dir: str) -> None:
        super().__init__()
        self.path = os.path.join(output_dir, "metrics.json")

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration is in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        # NaN is not valid JSON
        clean = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": step, **clean}) + "\n")
