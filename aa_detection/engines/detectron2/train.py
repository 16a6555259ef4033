"""Training and COCO evaluation on detectron2's own trainer."""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    default_setup,
)
from detectron2.evaluation import COCOEvaluator, inference_context
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ...checkpoints import load_configured
from ...config import (
    ConfigError,
    check_evaluation,
    check_training,
    default_to_final_weights,
    number_of_classes,
)
from ...data import (
    CocoDataset,
    DatasetReport,
    check_datasets,
    complete_annotations,
    get_coco_dataset,
    require_usable,
)
from ...evaluation import Detector
from ...visualization.samples import sample_pictures
from ..processes import Processes, plan_processes, run_together
from .checkpoint import AACheckpointer
from .mapper import ImageMapper
from .predict import Detectron2Detector


class AATrainer(DefaultTrainer):
    """``DefaultTrainer`` with COCO evaluation and :class:`AACheckpointer`, on CPUs too."""

    def __init__(self, cfg: CfgNode) -> None:
        # in place of DefaultTrainer's, whose model in several processes must be on GPUs and whose
        # checkpointer is detectron2's
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        device_ids = [comm.get_local_rank()] if cfg.MODEL.DEVICE.startswith("cuda") else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        trainer = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = AACheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> dict[str, Any]:
        if comm.get_world_size() > 1:
            # batch norm's statistics: evaluate those that the first process saves
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
        evaluator = COCOEvaluator(dataset_name, output_dir=_results_folder(cfg, dataset_name))
        complete_annotations(evaluator._coco_api.dataset)
        return evaluator

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        mapper = ImageMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        jitter = cfg.INPUT.SCALE_JITTER
        if not jitter.ENABLED:
            return build_detection_train_loader(cfg, mapper=ImageMapper(cfg, is_train=True))
        augmentations = [
            T.ResizeScale(*jitter.RANGE, jitter.SIZE, jitter.SIZE),
            # not padded here: the batch is, with zeros that the backbone recognises
            T.FixedSizeCrop((jitter.SIZE, jitter.SIZE), pad=False),
        ]
        if cfg.INPUT.RANDOM_FLIP != "none":
            horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
            augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
        mapper = ImageMapper(cfg, is_train=True, augmentations=augmentations)
        return build_detection_train_loader(cfg, mapper=mapper)


def _results_folder(cfg: CfgNode, dataset_name: str) -> str:
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return os.path.join(folder, dataset_name) if len(cfg.DATASETS.TEST) > 1 else folder


def _show_samples(cfg: CfgNode, dataset_name: str, detector: Detector) -> None:
    """Put :func:`.samples.sample_pictures` on TensorBoard."""
    dataset = _known(dataset_name)
    results = os.path.join(_results_folder(cfg, dataset_name), "coco_instances_results.json")
    if dataset is not None and os.path.isfile(results):
        for name, picture in sample_pictures(dataset, results, detector):
            get_event_storage().put_image(name, torch.from_numpy(picture).permute(2, 0, 1))


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
    """Train and evaluate, or evaluate only.

    Args:
        resume: go on from the last checkpoint in ``OUTPUT_DIR``; with `eval_only`, evaluate it.
        eval_only: evaluate ``MODEL.WEIGHTS``, or if empty ``OUTPUT_DIR/model_final.pth``.
        allow_pickle, allow_partial: how ``MODEL.WEIGHTS`` is loaded, see
            :func:`aa_detection.checkpoints.load_configured`.
        num_gpus: processes on this machine. Under torchrun its environment decides.
        num_machines, machine_rank, dist_url: how many machines, which one this is, and where they
            meet; see :func:`..processes.plan_processes`.
        open_images: read every image file's header before anything starts.

    Returns:
        Metrics by task, ``{"bbox": {"AP": …}}``, of the only test dataset, or by its name; empty
        on machines and in processes other than the first.

    Raises:
        ConfigError, DatasetError: before anything is written.
    """
    processes = plan_processes(cfg.MODEL.DEVICE, num_gpus, num_machines, machine_rank, dist_url)
    if eval_only:
        check_evaluation(cfg)
        if not resume:
            default_to_final_weights(cfg)
    else:
        check_training(cfg)
    norms = (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM, cfg.MODEL.RETINANET.NORM)
    if processes.total > 1 and not cfg.MODEL.DEVICE.startswith("cuda") and "SyncBN" in norms:
        raise ConfigError(
            f"MODEL.RESNETS.NORM, MODEL.FPN.NORM, MODEL.RETINANET.NORM {norms}: there is no SyncBN "
            f"on CPUs to share statistics among {processes.total} processes; set BN or GN"
        )
    loading = {"allow_pickle": allow_pickle, "allow_partial": allow_partial}
    last_checkpoint = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if cfg.MODEL.WEIGHTS and not (resume and os.path.isfile(last_checkpoint)):
        # into a model to throw away: what does not fit is to cost nothing
        trial = cfg.clone()
        trial.MODEL.DEVICE = "cpu"
        load_configured(cfg, build_model(trial), **loading, to_use=eval_only, paths=PathManager)
    train, test = _datasets(cfg, eval_only)
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


def _datasets(cfg: CfgNode, eval_only: bool) -> tuple[list[CocoDataset], list[CocoDataset]]:
    """The COCO datasets to train and to test on; detectron2's catalog may have others."""
    train, test = (
        [dataset for dataset in map(_known, names) if dataset is not None]
        for names in (() if eval_only else cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    )
    return train, test


def _known(name: str) -> CocoDataset | None:
    """The dataset as detectron2's catalog has it, or else ours; None if it is not COCO's."""
    if name not in DatasetCatalog:
        return get_coco_dataset(name)
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != "coco":
        return None
    return CocoDataset(name, Path(metadata.json_file), Path(metadata.image_root))


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
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank())
    logger.info("engine: detectron2 %s on %s", detectron2.__version__, cfg.MODEL.DEVICE)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="aa_detection")
    default_setup(cfg, None)
    for report in reports:
        for finding in report.warnings:
            logger.warning("%s", finding)
        dataset = report.dataset
        if dataset.name not in DatasetCatalog:  # here: a spawned process has a catalog of its own
            register_coco_instances(
                dataset.name, {}, str(dataset.annotation_file), str(dataset.image_root)
            )
    if eval_only:
        model = AATrainer.build_model(cfg)
        checkpointer = AACheckpointer(model, cfg.OUTPUT_DIR, **loading)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        return AATrainer.test(cfg, model)
    trainer = AATrainer(cfg)
    trainer.checkpointer.allow_pickle = loading["allow_pickle"]
    trainer.checkpointer.allow_partial = loading["allow_partial"]
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return getattr(trainer, "_last_eval_results", {})
