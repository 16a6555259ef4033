"""Train and evaluate with Lightning's Trainer and COCO evaluation."""

import logging
import os
import sys
import warnings
from typing import Any

import torchvision
from fvcore.common.config import CfgNode
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.utilities import rank_zero_only

from ...atomic_file import atomic_write
from ...checkpoints import write_trained
from ...data import get_coco_dataset
from ...training.best import BestMetric, best_metric
from ...training.files import cut_metrics
from ...training.guard import StepGuard
from ..launch import run_together
from ..options import RunOptions
from ..processes import Processes, is_first_process, plan_processes
from ..session import Plan, preflight, session
from .averaging import Averaging
from .best import KeepBest
from .checkpointing import (
    Checkpoints,
    WholeCheckpointIO,
    checkpoint_iteration,
    last_checkpoint,
    try_state,
)
from .loggers import check_loggers, open_loggers
from .model import build_model
from .module import DetectionModule
from .names import to_detectron2
from .progress import Progress

_log = logging.getLogger(__name__)


def run(cfg: CfgNode, options: RunOptions = RunOptions()) -> dict[str, Any]:  # noqa: B008
    """Train and evaluate, or evaluate only; see :meth:`aa_detection.engines.Engine.run`."""
    if not options.eval_only:
        check_loggers(cfg)
    processes = plan_processes(cfg.MODEL.DEVICE, options)
    plan = preflight(
        cfg,
        options,
        processes,
        last_checkpoint=last_checkpoint,
        find_dataset=get_coco_dataset,
        build_model=build_model,
        try_state=try_state,
    )
    scale_workers(cfg, processes.total)
    with plan.alone():
        return run_together(_worker, (plan,), processes=processes, device=cfg.MODEL.DEVICE)


def _worker(plan: Plan) -> dict[str, Any]:
    cfg, eval_only = plan.cfg, plan.options.eval_only
    rank_zero_only.rank = 0 if is_first_process() else 1  # Lightning sets it only with the Trainer
    engine = f"torchvision {torchvision.__version__}"
    with session(plan, engine, _start_log) as stop:
        seed = cfg.SEED if cfg.SEED >= 0 else int.from_bytes(os.urandom(3), "little")
        seed = seed_everything(seed, workers=True, verbose=False)
        module = DetectionModule(cfg, plan.train, plan.test, seed, StepGuard(stop, plan.resumable))
        module.about = plan.about(engine)
        plan.load_weights(module.model)
        if eval_only and plan.weights is not None:
            module.loaded_iteration = plan.weights.iteration
        if is_first_process():
            with atomic_write(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), "w") as file:
                file.write(cfg.dump())
        if eval_only:
            trainer = _trainer(cfg, [], [], plan.processes)
            trainer.validate(module, ckpt_path=plan.checkpoint, verbose=False, weights_only=True)
        else:
            _train(plan, module)
    return _results(module)


def _train(plan: Plan, module: DetectionModule) -> None:
    cfg, checkpoint = plan.cfg, plan.checkpoint
    if checkpoint is not None:
        _log.info("resuming from %s", checkpoint)
        if is_first_process():  # drop what was written after the checkpoint
            iteration = checkpoint_iteration(checkpoint)
            cut_metrics(os.path.join(cfg.OUTPUT_DIR, "metrics.json"), iteration)
    best = best_metric(cfg)
    with open_loggers(cfg, resume=checkpoint is not None) as loggers:
        trainer = _trainer(cfg, _callbacks(cfg, best), loggers, plan.processes)
        if checkpoint is not None:
            _repeat_evaluation(cfg, trainer, module, checkpoint)
        if best is None or not best.exhausted:
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
        if trainer.is_global_zero:
            _save_final(cfg, module)
        if module.test_datasets and module.evaluated_at != module.iteration:
            trainer.validate(module, verbose=False)


def _repeat_evaluation(
    cfg: CfgNode, trainer: Trainer, module: DetectionModule, checkpoint: str
) -> None:
    """Repeat the evaluation that followed a checkpoint, if one did."""
    iteration = checkpoint_iteration(checkpoint)
    evaluated = cfg.TEST.EVAL_PERIOD and iteration % cfg.TEST.EVAL_PERIOD == 0
    if evaluated and module.test_datasets and iteration < cfg.SOLVER.MAX_ITER:
        trainer.validate(module, ckpt_path=checkpoint, verbose=False, weights_only=True)


def _callbacks(cfg: CfgNode, best: BestMetric | None) -> list[Callback]:
    callbacks: list[Callback] = []
    if best is not None:
        callbacks.append(KeepBest(best))
    if cfg.SOLVER.EMA.DECAY:
        # after the callbacks that read an evaluation, before the one that saves a step
        callbacks.append(Averaging(decay=cfg.SOLVER.EMA.DECAY))
    return [*callbacks, Checkpoints()]


def _trainer(
    cfg: CfgNode, callbacks: list[Callback], loggers: list[Logger], processes: Processes
) -> Trainer:
    # TrainingBatches resumes by itself; the other warnings are about the user's or Lightning's
    # choices
    for warning in (
        "dataloader is not resumable",
        "not have many workers",
        "logging interval",
        "exists and is not empty",
        "callbacks used to create the checkpoint",
        "LeafSpec",
    ):
        warnings.filterwarnings("ignore", f".*{warning}.*")
    cuda, parts = cfg.MODEL.DEVICE.startswith("cuda"), cfg.SOLVER.GRAD_ACCUM_STEPS
    # explicit, because Lightning would take a lone process of a SLURM job for one of several
    environment: ClusterEnvironment = LightningEnvironment()
    strategy = "auto"
    if processes.started or processes.total > 1:
        environment, strategy = TorchElasticEnvironment(), "ddp"
    precision = "32-true"
    if cfg.SOLVER.AMP.ENABLED:
        precision = "16-mixed" if cuda else "bf16-mixed"
    return Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=processes.per_machine,
        num_nodes=processes.machines,
        strategy=strategy,
        precision=precision,
        max_steps=cfg.SOLVER.MAX_ITER,
        max_epochs=-1,
        accumulate_grad_batches=parts,
        val_check_interval=parts * (cfg.TEST.EVAL_PERIOD or cfg.SOLVER.MAX_ITER + 1),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=[Progress(cfg.SOLVER.MAX_ITER), *callbacks],
        plugins=[environment, WholeCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def scale_workers(cfg: CfgNode, world_size: int) -> None:
    """Keep the number of images per process as set by ``SOLVER.REFERENCE_WORLD_SIZE``.

    Batch and learning rate grow with the number of processes, iterations shrink (as in detectron2's
    ``DefaultTrainer.auto_scale_workers``). 0 scales nothing.
    """
    solver = cfg.SOLVER
    if solver.REFERENCE_WORLD_SIZE in (0, world_size):
        return
    scale = world_size / solver.REFERENCE_WORLD_SIZE
    solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
    solver.BASE_LR *= scale
    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        solver[key] = round(solver[key] / scale)
    solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
    cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
    solver.REFERENCE_WORLD_SIZE = world_size


def _save_final(cfg: CfgNode, module: DetectionModule) -> None:
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    write_trained(path, to_detectron2(module.model), module.iteration - 1, module.about)
    _log.info("saved %s", path)


def _results(module: DetectionModule) -> dict[str, Any]:
    by_name = {name: {"bbox": metrics} for name, metrics in module.results.items() if metrics}
    return next(iter(by_name.values())) if len(by_name) == 1 else by_name


def _start_log(output_dir: str) -> None:
    """Log to ``log.txt`` and the terminal from the first process."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # repeats this project's log
    logger = logging.getLogger("aa_detection")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if rank_zero_only.rank == 0 else logging.WARNING)
    formatter = logging.Formatter("[%(asctime)s] %(message)s", "%m/%d %H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if rank_zero_only.rank == 0:
        handlers.append(logging.FileHandler(os.path.join(output_dir, "log.txt")))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
