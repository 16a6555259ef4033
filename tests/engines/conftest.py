import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aa_detection.data import register_coco_dataset
from aa_detection.engines import RunOptions
from aa_detection.export.check import padded_batch
from aa_detection.layers import AAConv2d

ROOT = Path(__file__).resolve().parents[2]
AA_CONFIG = str(ROOT / "configs/sample/aa_retinanet_R18.yaml")

# the sample's detector, shrunk until four iterations take a second
TINY = [
    "MODEL.FPN.OUT_CHANNELS", "64",
    "MODEL.RETINANET.NUM_CONVS", "1",
    "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0",
    "TEST.DETECTIONS_PER_IMAGE", "20",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MAX_SIZE_TRAIN", "96",
    "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TEST", "96",
    "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.MAX_ITER", "4",
    "SOLVER.STEPS", "(3,)",
    "SOLVER.WARMUP_ITERS", "2",
    "SOLVER.CHECKPOINT_PERIOD", "100",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _in_sample_root(sample_root):
    """Every test here may name the sample dataset."""


@pytest.fixture
def run():
    """``run(engine, output_dir, *overrides, **how)``: train the tiny detector, return metrics."""

    def _run(engine, output_dir, *overrides, config=AA_CONFIG, **how):
        cfg = engine.load_config(config, [*TINY, "OUTPUT_DIR", str(output_dir), *overrides])
        return engine.run(cfg, RunOptions(**how))

    return _run


@pytest.fixture(scope="session")
def trained(sample_dataset, tmp_path_factory):
    """``trained(engine)``: folder and metrics of a run of the tiny detector, not to be changed."""

    @functools.cache
    def _trained(engine):
        output = tmp_path_factory.mktemp("trained") / "a run"
        cfg = engine.load_config(AA_CONFIG, [*TINY, "OUTPUT_DIR", str(output)])
        return output, engine.run(cfg)

    return _trained


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """``uninterrupted(engine, *overrides)``: :func:`result` of a run that nothing happens to."""

    @functools.cache
    def _uninterrupted(engine, *overrides):
        output = tmp_path_factory.mktemp("uninterrupted")
        engine.run(engine.load_config(AA_CONFIG, [*TINY, "OUTPUT_DIR", str(output), *overrides]))
        return result(output)

    return _uninterrupted


@pytest.fixture
def tiny_config():
    def _config(engine, *overrides, config=AA_CONFIG):
        return engine.load_config(config, [*TINY, *overrides])

    return _config


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """Names of datasets of 1 and 7 images: of one size, so that a batch has no padding."""
    names = {}
    rng = np.random.default_rng(0)
    for count in (1, 7):
        folder = tmp_path_factory.mktemp(f"images {count}")
        content = {"images": [], "annotations": []}
        content["categories"] = [{"id": i, "name": f"c{i}"} for i in (1, 2, 3, 5, 8)]
        for image_id in range(20, 20 + count):
            pixels = rng.integers(0, 60, (64, 96, 3), dtype=np.uint8)
            for place in range(3):
                x, y = int(rng.integers(0, 60)), int(rng.integers(0, 30))
                category = content["categories"][int(rng.integers(5))]["id"]
                pixels[y : y + 30, x : x + 30] = 90 + 20 * category
                box = {"bbox": [x, y, 30, 30], "area": 900, "iscrowd": 0}
                box |= {"id": 10 * image_id + place, "image_id": image_id}
                content["annotations"].append(box | {"category_id": category})
            image = {"id": image_id, "file_name": f"{image_id}.png", "height": 64, "width": 96}
            content["images"].append(image)
            Image.fromarray(pixels).save(folder / image["file_name"])
        (folder / "annotations.json").write_text(json.dumps(content))
        names[count] = f"processes_{count}"
        register_coco_dataset(names[count], folder / "annotations.json", folder)
    return names


@pytest.fixture
def at_step(monkeypatch):
    """``at_step(engine, n, act)``: `act` runs in the n-th step of training, from 1; with
    ``training=False``, at the n-th image of the evaluations."""

    def _at_step(engine, n, act, training=True):
        if "detectron2" in engine.__name__:
            from detectron2.modeling import RetinaNet
        else:
            from torchvision.models.detection import RetinaNet
        original = RetinaNet.forward
        calls = []

        def forward(self, *args, **kwargs):
            calls.append(self.training)
            if self.training == training and calls.count(training) == n:
                act()
            return original(self, *args, **kwargs)

        monkeypatch.setattr(RetinaNet, "forward", forward)

    return _at_step


def state_of(output_dir):
    """The weights a run leaves, by file."""
    names = [
        name for name in ("model_final", "model_best") if (output_dir / f"{name}.pth").exists()
    ]
    files = [torch.load(output_dir / f"{name}.pth", weights_only=True) for name in names]
    return {name: file["model"] for name, file in zip(names, files)}


def result(output_dir):
    """What must be the same however often the run was ended: weights, detections, metrics."""
    weights = state_of(output_dir)
    detections = json.loads((output_dir / "inference/coco_instances_results.json").read_text())
    lines = [json.loads(line) for line in (output_dir / "metrics.json").open()]
    if (output_dir / "last_checkpoint").exists():  # detectron2, whose losses are running medians
        lines = [line for line in lines if "bbox/AP" in line]
        lines = [
            {key: line[key] for key in line if key == "iteration" or key.startswith("bbox/")}
            for line in lines
        ]
    for line in lines:
        for timing in ("time", "data_time", "eta_seconds"):
            line.pop(timing, None)
    return weights, detections, lines


def assert_same(output_dir, expected):
    torch.testing.assert_close(result(output_dir), expected, rtol=0, atol=0, equal_nan=True)


def resemble_trained(backbone, cfg):
    """Give a random network statistics of random images and attention that is not zero."""
    for name, module in backbone.named_modules():
        if isinstance(module, AAConv2d):  # "add" starts at zero, where no difference would show
            module.proj.reset_parameters()
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
        if name.endswith("bn3"):  # tame branches: random ones magnify rounding from block to block
            torch.nn.init.constant_(module.weight, 0.2)
    with torch.no_grad():
        backbone.train()(padded_batch(2, 320, 448, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
