"""A config like detectron2's, as far as the tests look, without detectron2."""

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import add_attention_keys, add_trainer_keys


@pytest.fixture
def cfg():
    cfg = CfgNode()
    cfg.MODEL = CfgNode()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_MEAN = [103.53, 116.28, 123.675]
    cfg.MODEL.RESNETS = CfgNode({"DEPTH": 50, "NORM": "FrozenBN"})
    cfg.MODEL.BACKBONE = CfgNode({"FREEZE_AT": 2})
    cfg.SOLVER = CfgNode({"BASE_LR": 0.02, "MAX_ITER": 90000, "STEPS": (60000, 80000)})
    cfg.DATASETS = CfgNode({"TRAIN": ("birds_train",), "TEST": ("birds_val",)})
    cfg.INPUT = CfgNode({"CROP": None})
    cfg.OUTPUT_DIR = "./output"
    add_attention_keys(cfg)
    add_trainer_keys(cfg)
    return cfg
