"""The estimate beside a count, and the keys that it names."""

import torch
from fvcore.common.config import CfgNode
from torch import nn

from aa_detection.training.memory import memory_advice, training_memory


class Dense(nn.Module):
    """A convolution for a backbone and one for a head."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = Head()


class Backbone(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 8, 1, bias=False)

    def forward(self, images):
        return {"p3": super().forward(images)}


class Head(nn.Conv2d):
    def __init__(self):
        super().__init__(8, 4, 1, bias=False)

    def forward(self, features):
        return [super(Head, self).forward(feature) for feature in features]


def config(**keys):
    cfg = CfgNode(
        {
            "MODEL": {"DEVICE": "cuda"},
            "SOLVER": {"IMS_PER_BATCH": 16},
            "INPUT": {
                "MIN_SIZE_TRAIN": (640, 800),
                "MAX_SIZE_TRAIN": 1333,
                "MIN_SIZE_TEST": 800,
                "MAX_SIZE_TEST": 1333,
                "SCALE_JITTER": {"ENABLED": False, "SIZE": 640},
            },
        }
    )
    cfg.INPUT.SCALE_JITTER.ENABLED = keys.get("jitter", False)
    return cfg


def test_the_estimate_is_weights_and_activations():
    weights = 3 * 8 + 8 * 4
    pixels = 2 * 512 * 300
    expected = 3 * 4 * weights + 4 * 2.5 * pixels * (8 + 4)
    assert abs(training_memory(Dense(), 2, 512, 300) - expected) <= 1


def test_the_advice_names_two_keys():
    built = []

    def build(cfg):
        built.append(cfg.MODEL.DEVICE)
        return Dense()

    line = memory_advice(config(), build, 2, training=True)
    assert line.startswith("training on 8 images of 800x1333 needs about 1 GB a process")
    assert "lower SOLVER.IMS_PER_BATCH (16) or INPUT.MIN_SIZE_TRAIN ((640, 800))" in line
    line = memory_advice(config(jitter=True), build, 1, training=True)
    assert "16 images of 640x640" in line and "INPUT.SCALE_JITTER.SIZE (640)" in line
    assert built == ["cpu", "cpu"]
    line = memory_advice(config(), build, 1, training=False)
    assert "INPUT.MIN_SIZE_TEST (800)" in line and "IMS_PER_BATCH" not in line


def test_the_advice_needs_no_memory_of_its_own():
    def build(cfg):
        return torch.empty(1 << 50)

    line = memory_advice(config(), build, 1, training=True)
    assert line.startswith("training on 16 images of 800x1333; lower SOLVER.IMS_PER_BATCH")
