"""Training and COCO evaluation on detectron2's own trainer."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import detectron2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import default_setup
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import distributed

from ...atomic_file import remove_unfinished
from ...checkpoints import load_configured
from ...config import (
    ConfigError,
    check_evaluation,
    check_shares,
    check_training,
    default_to_final_weights,
    number_of_classes,
)
from ...data import DatasetReport, check_datasets, require_usable
from ...training.failures import is_accident, one_line_endings
from ...training.files import check_output_dir
from ...training.interrupt import StopSignals
from ...training.memory import memory_advice
from ..processes import Processes, plan_processes, run_together
from .catalog import coco_datasets
from .checkpoint import AACheckpointer
from .trainer import AATrainer


def run(
    cfg: CfgNode,
    *,
    resume: bool = False,
    eval_only: bool = False,
    allow_pickle: bool = False,
    allow_partial: bool = False,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    open_images: bool = True,
) -> dict[str, Any]:
    """Train and evaluate, or evaluate only; see :meth:`aa_detection.engines.Engine.run`."""
    processes = plan_processes(cfg.MODEL.DEVICE, num_gpus, num_machines, machine_rank, dist_url)
    if eval_only:
        check_evaluation(cfg)
        if not resume:
            default_to_final_weights(cfg)
    else:
        check_training(cfg)
        check_shares(cfg, processes.total)
    if cfg.SOLVER.AMP.ENABLED and not eval_only and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError(
            "SOLVER.AMP.ENABLED: detectron2 has it on CUDA alone, and MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE}; set it to False, or use --engine torchvision (bfloat16)"
        )
    norms = (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM, cfg.MODEL.RETINANET.NORM)
    if processes.total > 1 and not cfg.MODEL.DEVICE.startswith("cuda") and "SyncBN" in norms:
        raise ConfigError(
            f"MODEL.RESNETS.NORM, MODEL.FPN.NORM, MODEL.RETINANET.NORM {norms}: there is no SyncBN "
            f"on CPUs to share statistics among {processes.total} processes; set BN or GN"
        )
    loading = {"allow_pickle": allow_pickle, "allow_partial": allow_partial}
    goes_on = resume and _checkpoint_to_resume(cfg)
    if cfg.MODEL.WEIGHTS and not goes_on:
        # into a model to throw away: what does not fit is to cost nothing
        trial = cfg.clone()
        trial.MODEL.DEVICE = "cpu"
        load_configured(cfg, build_model(trial), **loading, to_use=eval_only, paths=PathManager)
    train, test = coco_datasets(cfg, eval_only)
    reports = check_datasets(
        train,
        test,
        num_classes=number_of_classes(cfg),
        masks=cfg.MODEL.MASK_ON,
        images="headers" if open_images else "names",
    )
    require_usable(reports)
    cfg.freeze()
    return run_together(
        _worker,
        (cfg, reports, resume, eval_only, loading, processes),
        processes=processes,
        device=cfg.MODEL.DEVICE,
    )


def _worker(
    cfg: CfgNode,
    reports: Sequence[DatasetReport],
    resume: bool,
    eval_only: bool,
    loading: dict[str, bool],
    processes: Processes,
) -> dict[str, Any]:
    if distributed.is_initialized():
        comm.create_local_process_group(processes.per_machine)
    stop = StopSignals()

    def resumable() -> str | None:
        return None if eval_only else _checkpoint_to_resume(cfg)

    def advice() -> str:
        return memory_advice(cfg, build_model, comm.get_world_size(), training=not eval_only)

    with stop, one_line_endings(stop, resumable, advice):
        check_output_dir(cfg.OUTPUT_DIR)
        if comm.is_main_process():
            remove_unfinished(cfg.OUTPUT_DIR)
        logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank())
        logger.info("engine: detectron2 %s on %s", detectron2.__version__, cfg.MODEL.DEVICE)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="aa_detection")
        # detectron2 logs the traceback of whatever ends its loop
        logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_accident)
        default_setup(cfg, None)
        for report in reports:
            logger.info("%s: %s", report.dataset.name, report.summary)
            for finding in report.warnings:
                logger.warning("%s", finding)
            dataset = report.dataset
            if dataset.name not in DatasetCatalog:  # here: a spawned process has its own
                register_coco_instances(
                    dataset.name, {}, str(dataset.annotation_file), str(dataset.image_root)
                )
        if eval_only:
            model = AATrainer.build_model(cfg)
            model.register_forward_hook(lambda *step: stop.check())
            checkpointer = AACheckpointer(model, cfg.OUTPUT_DIR, **loading)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
            return AATrainer.test(cfg, model)
        trainer = AATrainer(cfg, stop)
        trainer.checkpointer.allow_pickle = loading["allow_pickle"]
        trainer.checkpointer.allow_partial = loading["allow_partial"]
        trainer.resume_or_load(resume=resume)
        trainer.train()
        return getattr(trainer, "_last_eval_results", {})


def _is_no_accident(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_accident(record.exc_info[1]))


def _checkpoint_to_resume(cfg: CfgNode) -> str | None:
    """What ``last_checkpoint`` names.

    Raises:
        ConfigError: there is no such file.
    """
    tag = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if not os.path.exists(tag):
        return None
    with open(tag, encoding="utf-8") as file:
        path = os.path.join(cfg.OUTPUT_DIR, file.read().strip())
    if not os.path.isfile(path):
        raise ConfigError(f"--resume: {tag} names {path}, which is not there")
    return path
