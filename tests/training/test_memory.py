"""The estimate beside a count, and the keys that it names."""

import subprocess
import sys
from pathlib import Path

import pytest
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


STEPS = """
import resource, sys, torch
from aa_detection.engines.torchvision import build_model, load_config
from aa_detection.training.memory import training_memory
config, images, height, width = sys.argv[1], *map(int, sys.argv[2:])
model = build_model(load_config(config, ["MODEL.DEVICE", "cpu"])).train()
estimate = training_memory(model, images, height, width)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
target = {"boxes": torch.tensor([[10.0, 10.0, 100.0, 90.0]]), "labels": torch.tensor([1])}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for step in range(2):
    batch = [torch.rand(3, height, width) * 255 for _ in range(images)]
    sum(model(batch, [target] * images).values()).backward()
    optimizer.step()
    optimizer.zero_grad()
print(estimate, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "batch"),
    [
        ("sample/retinanet_R18.yaml", (4, 320, 512)),
        ("retinanet_R50_scratch_150ep.yaml", (2, 512, 512)),
        ("aa_retinanet_R50_scratch_150ep.yaml", (2, 320, 320)),
    ],
)
def test_the_estimate_beside_a_measurement(config, batch):
    configs = Path(__file__).resolve().parents[2] / "configs"
    done = subprocess.run(
        [sys.executable, "-c", STEPS, configs / config, *map(str, batch)],
        cwd=configs.parent,
        capture_output=True,
        text=True,
        timeout=200,
    )
    estimate, measured = map(int, done.stdout.split())
    print(f"\n{config}: estimated {estimate / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB")
    assert 0.5 < estimate / measured < 2
