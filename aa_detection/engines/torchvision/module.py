"""The LightningModule: losses, optimizer, schedule, evaluation."""

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from lightning.pytorch import LightningModule
from tabulate import tabulate
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader

from ...atomic_file import atomic_write
from ...checkpoints import About
from ...data import CocoDataset, open_coco
from ...evaluation import coco_ap
from ...evaluation.coco_ap import METRICS
from ...training.guard import StepGuard
from .accumulation import count_in_parts
from .data import Batch, Sample, in_picture, test_loader, train_loader
from .model import build_model
from .predict import TorchvisionDetector
from .progress import show_samples

ResultsByImage = dict[int, list[dict[str, Any]]]  # image id: COCO's list of results
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_log = logging.getLogger(__name__)


class DetectionModule(LightningModule):
    """The detector and its data.

    Args:
        seed: of the data's order and augmentation; when resuming, the checkpoint's seed replaces
            it.
        guard: checks every step.

    Attributes:
        iteration: iterations trained.
        loaded_iteration: iterations trained when the weights were loaded.
        results: metrics of the last evaluation by dataset name.
        evaluated_at: iteration of the last evaluation, or -1.
        loss_factor: factor for the losses of the last batch's parts.
        about: metadata written into the checkpoints.
    """

    def __init__(
        self,
        cfg: CfgNode,
        train: Sequence[CocoDataset],
        test: Sequence[CocoDataset],
        seed: int,
        guard: StepGuard,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.train_datasets = train
        self.test_datasets = test
        self.seed = seed
        self.guard = guard
        self.loaded_iteration = 0
        self.model = build_model(cfg)
        self.results: dict[str, dict[str, float]] = {}
        self.evaluated_at = -1
        self.loss_factor: float | Tensor = 1.0
        self.model.head.parts = cfg.SOLVER.GRAD_ACCUM_STEPS
        self.about: About | None = None

    def __getstate__(self) -> dict[str, Any]:
        # averaging copies the module; the copy must not hold the run
        return {**super().__getstate__(), "guard": None}

    def setup(self, stage: str) -> None:
        self.seed = self.trainer.strategy.broadcast(self.seed)  # each process has drawn its own

    # ------------------------------------------------------------------ training

    def train_dataloader(self) -> DataLoader[Sample]:
        return train_loader(
            self.cfg,
            self.train_datasets,
            seed=self.seed,
            start=self.global_step,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, targets = batch
        losses = self.model(images, targets)
        image_ids = [int(target["image_id"]) for target in targets]
        self.guard.check_losses(losses, image_ids, self.global_step)
        return {"loss": sum(losses.values()), **losses}

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = build_optimizer(self.cfg, self.model)
        multiplier, max_iter = lr_multiplier(self.cfg), self.cfg.SOLVER.MAX_ITER
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda iteration: multiplier(min(iteration / max_iter, 1.0))
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.model.head.parts == 1:
            return
        self.loss_factor = self.model.head.close_batch()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.loss_factor)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any
    ) -> None:
        clip = self.cfg.SOLVER.CLIP_GRADIENTS
        if not clip.ENABLED:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if clip.CLIP_TYPE == "value":
            nn.utils.clip_grad_value_(parameters, clip.CLIP_VALUE)
        else:  # "norm": detectron2 clips each parameter by its own norm
            for parameter in parameters:
                nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seed"] = self.seed
        checkpoint["parts"] = self.model.head.parts
        if self.about is not None:
            checkpoint.update(self.about.entry())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seed = checkpoint["seed"]
        self.loaded_iteration = checkpoint["global_step"]
        count_in_parts(checkpoint, checkpoint.get("parts", 1), self.model.head.parts)

    @property
    def iteration(self) -> int:
        # Lightning restores its count for training only
        return max(self.global_step, self.loaded_iteration)

    # ------------------------------------------------------------------ evaluation

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        return [
            test_loader(
                self.cfg, dataset, rank=self.global_rank, world_size=self.trainer.world_size
            )
            for dataset in self.test_datasets
        ]

    def on_validation_epoch_start(self) -> None:
        if distributed.is_initialized():
            # evaluate with the batch norm statistics that the first process saves
            for buffer in self.model.buffers():
                distributed.broadcast(buffer, src=0)
        self._cocos = [open_coco(dataset) for dataset in self.test_datasets]
        self._found: list[ResultsByImage] = [{} for _ in self.test_datasets]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        categories = sorted(self._cocos[dataloader_idx].getCatIds())
        self.guard.stop.check()
        images, targets = batch
        with torch.autocast(self.device.type, enabled=False):  # as detectron2 evaluates
            outputs = self.model(images)
        for image, target, output in zip(images, targets, outputs):
            found = in_picture(output, image.shape[1:], target["size"].tolist())
            image_id = int(target["image_id"])
            self._found[dataloader_idx][image_id] = found.to_coco(image_id, categories)

    def on_validation_epoch_end(self) -> None:
        for i, dataset in enumerate(self.test_datasets):
            detections = self._gather(self._found[i])
            metrics: dict[str, float] = {}
            if self.trainer.is_global_zero:
                path = results_file(self.cfg, dataset.name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with atomic_write(path, "w") as file:
                    json.dump(detections, file)
                metrics = coco_ap(self._cocos[i], detections)
                self._report(dataset.name, metrics)
                detector = TorchvisionDetector(self.cfg, self.model)
                show_samples(self.loggers, dataset, detections, detector, self.iteration)
            self.results[dataset.name] = metrics
        self.evaluated_at = self.iteration
        del self._cocos, self._found

    def _gather(self, found: ResultsByImage) -> list[dict[str, Any]]:
        """Return all processes' results by image id in the first process, nothing in the others."""
        shares: list[ResultsByImage] | None = [found]
        if distributed.is_initialized():
            # through CPU memory: there may be a million
            group: Any = distributed.new_group(backend="gloo")
            shares = [{}] * distributed.get_world_size() if self.global_rank == 0 else None
            distributed.gather_object(found, shares, group=group)
            distributed.destroy_process_group(group)
        # by image, so that an image evaluated by two processes counts once
        by_image = {image_id: rows for share in shares or () for image_id, rows in share.items()}
        return [row for image_id in sorted(by_image) for row in by_image[image_id]]

    def _report(self, name: str, metrics: dict[str, float]) -> None:
        _log.info("%s at iteration %d", name, self.iteration)
        _log.info(" ".join(f"{metric:>8}" for metric in METRICS))
        _log.info(" ".join(f"{metrics[metric]:8.3f}" for metric in METRICS))
        _log.info("AP by class:\n%s", _class_table(metrics))
        for logger in self.loggers:
            logger.log_metrics(self._named(name, metrics), step=self.iteration)

    def _named(self, dataset_name: str, metrics: dict[str, float]) -> dict[str, float]:
        prefix = "bbox" if len(self.test_datasets) == 1 else f"{dataset_name}/bbox"
        return {f"{prefix}/{metric}": value for metric, value in metrics.items()}

    def metrics(self) -> dict[str, float]:
        """Return the last evaluation's metrics as in ``metrics.json``; empty except on rank 0."""
        named: dict[str, float] = {}
        for name, metrics in self.results.items():
            named |= self._named(name, metrics)
        return named


def _class_table(metrics: dict[str, float]) -> str:
    """Format each class's AP, three columns wide as in detectron2's log."""
    cells = [(k.removeprefix("AP-"), v) for k, v in metrics.items() if k.startswith("AP-")]
    columns = min(3, len(cells))
    rows = [sum(cells[i : i + columns], ()) for i in range(0, len(cells), columns)]
    headers = ["category", "AP"] * columns
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f", numalign="left")


def results_file(cfg: CfgNode, dataset_name: str) -> str:
    """Return the path of a test dataset's detections; with several datasets, each has a folder."""
    folder = dataset_name if len(cfg.DATASETS.TEST) > 1 else ""
    return os.path.join(cfg.OUTPUT_DIR, "inference", folder, "coco_instances_results.json")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.SGD:
    """Build SGD with a separate weight decay for norms, as in detectron2."""
    solver = cfg.SOLVER
    norms: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in model.modules():
        group = norms if isinstance(module, _NORMS) else others
        group += [p for p in module.parameters(recurse=False) if p.requires_grad]
    return torch.optim.SGD(
        [
            {"params": others, "weight_decay": solver.WEIGHT_DECAY},
            {"params": norms, "weight_decay": solver.WEIGHT_DECAY_NORM},
        ],
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
    )


def lr_multiplier(cfg: CfgNode) -> ParamScheduler:
    """Return the learning rate relative to ``SOLVER.BASE_LR`` as a function of progress, 0 … 1."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        schedule: ParamScheduler = CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
    else:
        steps = [step for step in solver.STEPS if step < solver.MAX_ITER]
        schedule = MultiStepParamScheduler(
            values=[solver.GAMMA**k for k in range(len(steps) + 1)],
            milestones=steps,
            num_updates=solver.MAX_ITER,
        )
    length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    if length == 0:
        return schedule
    start = solver.WARMUP_FACTOR * schedule(0.0)
    if solver.WARMUP_METHOD == "constant":
        warmup: ParamScheduler = ConstantParamScheduler(start)
    else:
        warmup = LinearParamScheduler(start, schedule(length))
    return CompositeParamScheduler(
        [warmup, schedule], lengths=[length, 1 - length], interval_scaling=["rescaled", "fixed"]
    )
