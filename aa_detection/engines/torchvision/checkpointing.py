"""Atomic checkpoints for Lightning's Trainer, and finding the one to resume from."""

import glob
import os
import re
import signal
from typing import Any

import torch
from fvcore.common.config import CfgNode
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from ...atomic_file import atomic_write
from ...config import check_averaging
from ...training.guard import check_weights
from ...training.interrupt import Interrupted
from .accumulation import begins_step, ends_step
from .module import DetectionModule, build_optimizer

_FOLDER = "checkpoints"
_STOPPED_BY_ANOTHER = signal.SIGTERM  # another process got a signal that this one has not


def last_checkpoint(output_dir: str) -> str | None:
    """Return the newest checkpoint of a run, or None."""
    return max(_checkpoints(output_dir), default=None)


def checkpoint_iteration(path: str) -> int:
    """Return how many iterations a checkpoint has trained."""
    return int(path.rpartition("_")[2].removesuffix(".ckpt"))


def _checkpoints(output_dir: str) -> list[str]:
    found = glob.glob(os.path.join(glob.escape(output_dir), _FOLDER, "iteration_*.ckpt"))
    return [path for path in found if re.fullmatch(r"iteration_\d+\.ckpt", os.path.basename(path))]


def try_state(cfg: CfgNode, model: nn.Module, rest: dict[str, Any]) -> None:
    """See :func:`aa_detection.engines.session.preflight`."""
    for key in ("pytorch-lightning_version", "loops", "callbacks", "lr_schedulers"):
        rest[key]
    for key in ("global_step", "seed"):
        if type(rest[key]) is not int:
            raise TypeError(f"{key} is {rest[key]!r:.60}, expected an integer")
    check_averaging(cfg, "averaging_state" in rest)
    build_optimizer(cfg, model).load_state_dict(rest["optimizer_states"][0])


class WholeCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str, storage_options: Any = None
    ) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_write(path) as file:
            torch.save(checkpoint, file)


class Checkpoints(Checkpoint):
    """Save the run every ``SOLVER.CHECKPOINT_PERIOD`` iterations, keeping only the newest.

    Checkpoints of an earlier run in the same folder are replaced too. Also saves before every
    evaluation, which may take long, after the last iteration, and when the run is asked to stop.
    """

    def on_train_start(self, trainer: Trainer, module: DetectionModule) -> None:
        module.guard.stop.install()  # Lightning installs its own SIGTERM handler

    def on_train_batch_start(
        self, trainer: Trainer, module: DetectionModule, batch: Any, batch_idx: int
    ) -> None:
        # not right after the checkpoint: the step's metrics are written later
        if module.guard.stopping and begins_step(trainer, batch_idx):
            raise Interrupted(module.guard.stop.received or _STOPPED_BY_ANOTHER)

    def on_train_batch_end(
        self, trainer: Trainer, module: DetectionModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        cfg, iteration = module.cfg, trainer.global_step
        due = iteration % cfg.SOLVER.CHECKPOINT_PERIOD == 0 or iteration == cfg.SOLVER.MAX_ITER
        evaluates = cfg.TEST.EVAL_PERIOD and iteration % cfg.TEST.EVAL_PERIOD == 0
        if not (due or evaluates or module.guard.stopping):
            return
        check_weights(module.model, iteration - 1, last_checkpoint(cfg.OUTPUT_DIR))
        path = os.path.join(cfg.OUTPUT_DIR, _FOLDER, f"iteration_{iteration:07d}.ckpt")
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for older in _checkpoints(cfg.OUTPUT_DIR):
                if older != path:
                    os.unlink(older)
