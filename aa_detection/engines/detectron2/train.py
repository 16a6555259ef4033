"""Train and evaluate with detectron2's trainer and COCO evaluation."""

import logging
import os
from typing import Any

import detectron2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import distributed, nn

from ...config import ConfigError, check_averaging
from ...training.failures import is_accident
from ..launch import run_together
from ..options import RunOptions
from ..processes import Processes, plan_processes
from ..session import Plan, preflight, session
from .averaging import Averaging
from .building import build_model
from .catalog import coco_dataset
from .checkpoint import AACheckpointer
from .trainer import AATrainer


def run(cfg: CfgNode, options: RunOptions = RunOptions()) -> dict[str, Any]:  # noqa: B008
    """Train and evaluate, or evaluate only; see :meth:`aa_detection.engines.Engine.run`."""
    if cfg.LOGGERS and not options.eval_only:
        raise ConfigError(
            f"LOGGERS {', '.join(cfg.LOGGERS)}: detectron2 writes metrics.json and TensorBoard "
            "alone; set it to [], or use --engine torchvision"
        )
    processes = plan_processes(cfg.MODEL.DEVICE, options)
    _check_device(cfg, options, processes)
    plan = preflight(
        cfg,
        options,
        processes,
        last_checkpoint=last_checkpoint,
        find_dataset=coco_dataset,
        build_model=build_model,
        try_state=_try_state,
        paths=PathManager,
    )
    cfg.freeze()
    with plan.alone():
        return run_together(_worker, (plan,), processes=processes, device=cfg.MODEL.DEVICE)


def _try_state(cfg: CfgNode, model: nn.Module, rest: dict[str, Any]) -> None:
    """See :func:`aa_detection.engines.session.preflight`."""
    if type(rest["iteration"]) is not int:
        raise TypeError(f"iteration is {rest['iteration']!r:.60}, expected an integer")
    state = rest["trainer"]["_trainer"]
    if cfg.SOLVER.AMP.ENABLED:
        state["grad_scaler"]
    check_averaging(cfg, Averaging.__qualname__ in rest["trainer"].get("hooks", {}))
    AATrainer.build_optimizer(cfg, model).load_state_dict(state["optimizer"])


def _check_device(cfg: CfgNode, options: RunOptions, processes: Processes) -> None:
    """Refuse features that detectron2 has on CUDA only.

    Raises:
        ConfigError: names the key.
    """
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return
    if cfg.SOLVER.AMP.ENABLED and not options.eval_only:
        raise ConfigError(
            "SOLVER.AMP.ENABLED: detectron2 has it on CUDA alone, and MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE}; set it to False, or use --engine torchvision (bfloat16)"
        )
    norms = (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM, cfg.MODEL.RETINANET.NORM)
    if processes.total > 1 and "SyncBN" in norms:
        raise ConfigError(
            f"MODEL.RESNETS.NORM, MODEL.FPN.NORM, MODEL.RETINANET.NORM {norms}: there is no SyncBN "
            f"on CPUs to share statistics among {processes.total} processes; set BN or GN"
        )


def _worker(plan: Plan) -> dict[str, Any]:
    cfg = plan.cfg
    if distributed.is_initialized():
        comm.create_local_process_group(plan.processes.per_machine)
    engine = f"detectron2 {detectron2.__version__}"
    with session(plan, engine, _start_log) as stop:
        default_setup(cfg, None)
        for dataset in (*plan.train, *plan.test):
            if dataset.name not in DatasetCatalog:  # spawned processes start without it
                register_coco_instances(
                    dataset.name, {}, str(dataset.annotation_file), str(dataset.image_root)
                )
        if plan.options.eval_only:
            model = AATrainer.build_model(cfg)
            model.register_forward_hook(lambda *step: stop.check())
            plan.load_weights(model)
            if plan.checkpoint is not None:
                AACheckpointer(model, cfg.OUTPUT_DIR).load(plan.checkpoint, checkpointables=[])
            return AATrainer.test(cfg, model)
        trainer = AATrainer(cfg, stop, plan.about(engine))
        plan.load_weights(trainer.checkpointer.model)
        if plan.checkpoint is not None:
            trainer.resume_or_load(resume=True)
        return trainer.train()


def _start_log(output_dir: str) -> None:
    """Set up detectron2's log, for this project's messages too."""
    # same arguments as in default_setup: with others it would add its handlers twice
    setup_logger(output_dir, distributed_rank=comm.get_rank())
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name="aa_detection")
    # detectron2 logs the traceback of anything that ends its loop
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_accident)


def _is_no_accident(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_accident(record.exc_info[1]))


def last_checkpoint(output_dir: str) -> str | None:
    """Return the path that the file ``last_checkpoint`` names; None without one.

    Raises:
        ConfigError: the named file does not exist.
    """
    tag = os.path.join(output_dir, "last_checkpoint")
    if not os.path.exists(tag):
        return None
    with open(tag, encoding="utf-8", errors="replace") as file:
        path = os.path.join(output_dir, file.read().strip())
    if "\0" in path or not os.path.isfile(path):
        raise ConfigError(f"--resume: {tag} names {path!r}, which is not there")
    return path
