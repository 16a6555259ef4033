"""detectron2's training images in a resumable order, with reproducible augmentation.

detectron2's own sampler restarts, its aspect ratio groups lose the images they hold, and its
augmentations draw from the process's random numbers. This module uses the embedded engine's batches
instead; :class:`.mapper.ImageMapper` reads and augments the images.
"""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ...training.batches import TrainingBatches
from ...training.interrupt import leave_to_parent
from .mapper import ImageMapper


class SeededImages(Dataset[dict[str, Any]]):
    """Mapped records; the key ``(index, seed)`` determines a sample in any process."""

    def __init__(self, records: list[dict[str, Any]], mapper: ImageMapper) -> None:
        self.records = DatasetFromList(records, copy=False)
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, seed = key
        with torch.random.fork_rng(devices=[]):  # without workers it is the model's generator
            torch.manual_seed(seed)
            np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # detectron2's transforms draw here
            random.seed(seed)
            return self.mapper(self.records[index])


def train_loader(cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
    """Yield this process's batches of ``DATALOADER.SAMPLER_TRAIN``'s images in parts, without end.

    Only "TrainingSampler" can be resumed; detectron2's other samplers restart.
    """
    mapper = _mapper(cfg)
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        images = cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.GRAD_ACCUM_STEPS
        return build_detection_train_loader(cfg, mapper=mapper, total_batch_size=images)
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    batches = TrainingBatches(
        [record["width"] > record["height"] for record in records],
        cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
        parts=cfg.SOLVER.GRAD_ACCUM_STEPS,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        start=0,
        end=None,
        group=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    return DataLoader(
        SeededImages(records, mapper),
        batch_sampler=batches,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        worker_init_fn=leave_to_parent,
    )


def _mapper(cfg: CfgNode) -> ImageMapper:
    jitter = cfg.INPUT.SCALE_JITTER
    if not jitter.ENABLED:
        return ImageMapper(cfg, is_train=True)
    augmentations = [
        T.ResizeScale(*jitter.RANGE, jitter.SIZE, jitter.SIZE),
        # not padded here: the batch is padded later, with zeros that the backbone recognises
        T.FixedSizeCrop((jitter.SIZE, jitter.SIZE), pad=False),
    ]
    if cfg.INPUT.RANDOM_FLIP != "none":
        horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    return ImageMapper(cfg, is_train=True, augmentations=augmentations)
