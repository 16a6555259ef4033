"""Training and COCO evaluation on detectron2's own trainer."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detectron2
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_setup, launch
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

from ...checkpoints import load_configured
from ...config import check_evaluation, check_training, default_to_final_weights, number_of_classes
from ...data import (
    CocoDataset,
    DatasetReport,
    check_datasets,
    complete_annotations,
    get_coco_dataset,
    require_usable,
)
from .checkpoint import AACheckpointer
from .mapper import ImageMapper


class AATrainer(DefaultTrainer):
    """``DefaultTrainer`` with COCO evaluation and :class:`AACheckpointer`."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:
            folder = os.path.join(folder, dataset_name)
        evaluator = COCOEvaluator(dataset_name, output_dir=folder)
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

    def build_hooks(self):
        # the hooks hold on to the checkpointer, so it is exchanged before they are built
        self.checkpointer = AACheckpointer(
            self._trainer.model, self.cfg.OUTPUT_DIR, **self.checkpointer.checkpointables
        )
        return super().build_hooks()


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
        num_gpus, num_machines, machine_rank, dist_url: of :func:`detectron2.engine.launch`.
        open_images: read every image file's header before anything starts.

    Returns:
        Metrics by task, ``{"bbox": {"AP": …}}``, of the only test dataset, or by its name; empty
        where the work was done in processes of its own.

    Raises:
        ConfigError, DatasetError: before anything is written.
    """
    if eval_only:
        check_evaluation(cfg)
        if not resume:
            default_to_final_weights(cfg)
    else:
        check_training(cfg)
    loading = {"allow_pickle": allow_pickle, "allow_partial": allow_partial}
    last_checkpoint = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if cfg.MODEL.WEIGHTS and not (resume and os.path.isfile(last_checkpoint)):
        # into a model to throw away: what does not fit is to cost nothing
        trial = cfg.clone()
        trial.MODEL.DEVICE = "cpu"
        load_configured(cfg, build_model(trial), **loading, paths=PathManager)
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
    args = (cfg, reports, resume, eval_only, loading)
    if num_gpus * num_machines <= 1:
        return _worker(*args)
    launch(
        _worker,
        num_gpus,
        num_machines=num_machines,
        machine_rank=machine_rank,
        dist_url=dist_url,
        args=args,
    )
    return {}


def _datasets(cfg: CfgNode, eval_only: bool) -> tuple[list[CocoDataset], list[CocoDataset]]:
    """The COCO datasets to train and to test on; detectron2's catalog may have others."""

    def known(name: str) -> CocoDataset | None:
        if name not in DatasetCatalog:
            return get_coco_dataset(name)
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type") != "coco":
            return None
        return CocoDataset(name, Path(metadata.json_file), Path(metadata.image_root))

    train, test = (
        [dataset for dataset in map(known, names) if dataset is not None]
        for names in (() if eval_only else cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    )
    return train, test


def _worker(
    cfg: CfgNode,
    reports: Sequence[DatasetReport],
    resume: bool,
    eval_only: bool,
    loading: dict[str, bool],
) -> dict[str, Any]:
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
