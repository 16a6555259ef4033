"""A detectron2 trainer whose interrupted runs resume exactly."""

import contextlib
import json
import logging
import math
import os
import signal
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.evaluation import COCOEvaluator, inference_context
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, get_event_storage, has_event_storage
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ...atomic_file import UNFINISHED
from ...checkpoints import About
from ...data import complete_annotations
from ...inference import BaseDetector
from ...inference.samples import sample_pictures
from ...training.batches import TrainingBatches
from ...training.best import best_metric
from ...training.files import cut_metrics
from ...training.guard import StepGuard
from ...training.interrupt import Interrupted, StopSignals
from .accumulation import AccumulatingTrainer
from .averaging import Averaging
from .best import EarlyStop, KeepBest
from .catalog import coco_dataset
from .checkpoint import AACheckpointer
from .data import train_loader
from .mapper import ImageMapper
from .predict import Detectron2Detector


class WholeResults(COCOEvaluator):
    """Write the evaluator's files atomically."""

    _output_dir: str

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, Any] | None:
        folder = self._output_dir
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, suffix=UNFINISHED) as self._output_dir:
            results = super().evaluate(img_ids)
            for name in os.listdir(self._output_dir):
                os.replace(os.path.join(self._output_dir, name), os.path.join(folder, name))
        self._output_dir = folder
        return results


class SaveBeforeStop(hooks.HookBase):
    """Save the step of a run that is stopping, before evaluation and writers."""

    def after_step(self) -> None:
        if self.trainer.guard.stopping:
            self.trainer.save_step()


class WriteEvaluation(hooks.HookBase):
    """Write each evaluation to the files at once.

    detectron2 writes every 20 iterations, and a kill would lose the evaluation.
    """

    def after_step(self) -> None:
        period, done = self.trainer.cfg.TEST.EVAL_PERIOD, self.trainer.iter + 1
        # PeriodicWriter itself writes after the last step
        if period and done % period == 0 and done < self.trainer.max_iter:
            for hook in self.trainer._hooks:
                if isinstance(hook, hooks.PeriodicWriter):
                    for writer in hook._writers:
                        if not isinstance(writer, CommonMetricPrinter):  # the log has it already
                            writer.write()


class AATrainer(DefaultTrainer):
    """``DefaultTrainer`` with COCO evaluation and :class:`AACheckpointer`, on CPUs too.

    However often a run is interrupted and resumed, it ends with the weights of an uninterrupted
    run: the order of the images, their augmentation and the learning rate continue. Only the
    running medians that detectron2 logs as losses restart.

    Args:
        stop: signals checked between steps and between an evaluation's images.
        about: metadata written into the checkpoints.
    """

    _hooks: list[hooks.HookBase]

    def __init__(
        self, cfg: CfgNode, stop: StopSignals | None = None, about: About | None = None
    ) -> None:
        # DefaultTrainer.__init__ requires GPUs for a model in several processes and creates
        # detectron2's checkpointer
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        device_ids = [comm.get_local_rank()] if cfg.MODEL.DEVICE.startswith("cuda") else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        parts, amp = cfg.SOLVER.GRAD_ACCUM_STEPS, cfg.SOLVER.AMP.ENABLED
        how: dict[str, Any] = {}
        trainer = AMPTrainer if amp else SimpleTrainer
        if parts > 1:
            trainer, how = AccumulatingTrainer, {"parts": parts, "amp": amp}
        self._trainer = trainer(model, data_loader, optimizer, **how)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = AACheckpointer(
            model, cfg.OUTPUT_DIR, about=about, trainer=weakref.proxy(self)
        )
        self.averaging: Averaging | None = None
        if cfg.SOLVER.EMA.DECAY:
            self.averaging = Averaging(self.checkpointer.model, cfg.SOLVER.EMA.DECAY)
            self.checkpointer.saved_model = self.averaging.average.module
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.guard = StepGuard(stop or StopSignals(), self._last_checkpoint)
        batches = getattr(data_loader, "batch_sampler", None)
        self._batches = batches if isinstance(batches, TrainingBatches) else None
        self.seed = self._batches.seed if self._batches is not None else max(cfg.SEED, 0)
        self.best = best_metric(cfg)
        self.model.register_forward_hook(self._look)
        self.register_hooks(self.build_hooks())

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        if comm.get_world_size() > 1:
            # evaluate with the batch norm statistics that the first process saves
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process() and has_event_storage():
            network = model.module if isinstance(model, DistributedDataParallel) else model
            with inference_context(network):
                for name in cfg.DATASETS.TEST:
                    _show_samples(cfg, name, Detectron2Detector(cfg, network))
        return results

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        evaluator = WholeResults(dataset_name, output_dir=_results_folder(cfg, dataset_name))
        complete_annotations(evaluator._coco_api.dataset)
        return evaluator

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        mapper = ImageMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        return train_loader(cfg)

    # ------------------------------------------------------------------ resuming

    def resume_or_load(self, resume: bool = True) -> None:
        super().resume_or_load(resume)
        if self._batches is not None:
            self._batches.start, self._batches.seed = self.start_iter, self.seed
        elif self.start_iter > 0:
            logging.getLogger(__name__).warning(
                "DATALOADER.SAMPLER_TRAIN %s starts anew: the images come in another order than in "
                "the uninterrupted run",
                self.cfg.DATALOADER.SAMPLER_TRAIN,
            )
        if self.start_iter > 0 and comm.is_main_process():
            cut_metrics(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), self.start_iter)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["seed"] = self.seed
        if self.best is not None:
            state["best"] = self.best.state_dict()
        # detectron2's RetinaNet keeps this average outside its state dict
        state["loss_normalizer"] = getattr(self.checkpointer.model, "loss_normalizer", None)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.seed = state_dict.get("seed", self.seed)  # plain detectron2 saves none of these
        if state_dict.get("loss_normalizer") is not None:
            self.checkpointer.model.loss_normalizer = state_dict["loss_normalizer"]
        if self.best is not None and "best" in state_dict:
            self.best.load_state_dict(state_dict["best"])

    def train(self) -> dict[str, Any]:
        with contextlib.suppress(EarlyStop):
            super().train()
        return getattr(self, "_last_eval_results", {})

    def before_train(self) -> None:
        super().before_train()
        if self.start_iter == 0:
            return
        evaluated = self._evaluated(self.start_iter - 1)
        if evaluated is None:
            # a kill may have cut off the evaluation after the checkpoint
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._hooks:
                if isinstance(hook, (hooks.EvalHook, KeepBest, WriteEvaluation)):
                    hook.after_step()
            self.iter = self.storage.iter = self.start_iter
        elif self.best is not None:
            self.best.update(self.start_iter, evaluated.get(self.best.name, math.nan))
        if self.best is not None and self.best.exhausted:
            if evaluated is not None:
                self._evaluate()
            self.iter = self.start_iter - 1
            self._stop_early()

    def _stop_early(self) -> None:
        self.checkpointer.save("model_final", iteration=self.iter)
        raise EarlyStop

    def _evaluated(self, iteration: int) -> dict[str, float] | None:
        """Return an iteration's metrics from ``metrics.json``; the same in every process."""
        path = os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")
        found = None
        if comm.is_main_process() and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
            for row in rows:
                if row["iteration"] == iteration and any(key.endswith("/AP") for key in row):
                    found = row
        return comm.all_gather(found)[0]

    # ------------------------------------------------------------------ steps

    def run_step(self) -> None:
        # two-stage detectors draw their samples
        torch.manual_seed((self.seed << 32) + self.iter * comm.get_world_size() + comm.get_rank())
        # the compiled focal loss rounds its first gradients differently from later ones, and a
        # resumed process has first ones again
        with torch.jit.optimized_execution(False):
            super().run_step()

    def _look(self, model: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        if model.training:
            image_ids = [each.get("image_id", each.get("file_name")) for each in inputs[0]]
            losses = outputs if isinstance(outputs, dict) else {"total_loss": outputs}
            self.guard.check_losses(losses, image_ids, self.iter)
        else:
            self.guard.stop.check()

    def build_hooks(self) -> list[hooks.HookBase]:
        built = super().build_hooks()
        evaluation = next(i for i, hook in enumerate(built) if isinstance(hook, hooks.EvalHook))
        built[evaluation] = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
        after = evaluation + 1
        return [
            *([self.averaging] if self.averaging is not None else []),
            *built[:evaluation],
            SaveBeforeStop(),
            built[evaluation],
            *([KeepBest(self.best, self.checkpointer)] if self.best is not None else []),
            WriteEvaluation(),
            *built[after:],
        ]

    def _evaluate(self) -> dict[str, Any]:
        averaging = self.averaging
        with contextlib.nullcontext() if averaging is None else averaging.in_place():
            self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def after_step(self) -> None:
        try:
            super().after_step()
            if self.guard.stopping:
                raise Interrupted(self.guard.stop.received or signal.SIGTERM)
            if self.best is not None and self.best.exhausted:
                self._stop_early()
        except Interrupted:  # raised by the evaluation too
            self.save_step()
            raise

    def save_step(self) -> None:
        """Save after the current step, unless already saved."""
        name = f"model_{self.iter:07d}"
        last = os.path.basename(self._last_checkpoint() or "")
        if self.iter + 1 < self.max_iter and last != f"{name}.pth":
            self.checkpointer.save(name, iteration=self.iter)

    def after_train(self) -> None:
        self.iter = min(self.iter, self.max_iter)  # detectron2 would count on after a finished run
        if self.iter < self.max_iter:  # stopped early: nothing to evaluate
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, hooks.EvalHook)]
        super().after_train()

    def _last_checkpoint(self) -> str | None:
        return self.checkpointer.get_checkpoint_file() or None


def _results_folder(cfg: CfgNode, dataset_name: str) -> str:
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return os.path.join(folder, dataset_name) if len(cfg.DATASETS.TEST) > 1 else folder


def _show_samples(cfg: CfgNode, dataset_name: str, detector: BaseDetector) -> None:
    """Log :func:`aa_detection.inference.samples.sample_pictures` to TensorBoard."""
    dataset = coco_dataset(dataset_name)
    results = os.path.join(_results_folder(cfg, dataset_name), "coco_instances_results.json")
    if dataset is not None and os.path.isfile(results):
        for name, picture in sample_pictures(dataset, results, detector):
            get_event_storage().put_image(name, torch.from_numpy(picture).permute(2, 0, 1))
