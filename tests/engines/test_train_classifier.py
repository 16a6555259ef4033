"""The example that trains a classifier: on toy images, interrupted, and into a detector."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from aa_detection.checkpoints import load_checkpoint, read_checkpoint
from aa_detection.engines import load_engine

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("lightning")


@pytest.fixture(scope="module")
def script():
    path = ROOT / "examples/train_classifier.py"
    if not path.exists():
        pytest.skip("examples are not in the wheel")
    spec = importlib.util.spec_from_file_location("train_classifier", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three classes of noise, each of its own colour."""
    root = tmp_path_factory.mktemp("my images")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for label in range(3):
            folder = root / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 80, (36, 44, 3), dtype=np.uint8)
                pixels[..., label] += 150
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture
def train(script, images, tmp_path):
    def _train(network="resnet18", **options):
        words = ["--data", images, "--output", tmp_path / "out", "--network", network]
        options = {"epochs": 2, "batch-size": 8, "image-size": 32, "workers": 0} | options
        words += [word for name, value in options.items() for word in (f"--{name}", value)]
        assert script.main([*map(str, words)]) == 0
        return tmp_path / "out"

    return _train


@pytest.mark.parametrize("network", ["resnet18", "aa_resnet18"])
def test_a_detector_starts_from_it(train, network):
    out = train(network, precision="bf16-mixed")
    result = json.loads((out / "result.json").read_text())
    assert 0 <= result["top1"]["low"] <= result["top1"]["percent"] <= result["top1"]["high"] <= 100
    assert result["top5"]["percent"] == 100  # of three classes
    assert len((out / "ranks.csv").read_text().splitlines()) == 1 + 9

    keys = ["MODEL.DEVICE", "cpu"]
    keys += ["MODEL.ATTENTION.CONV", "aa" if network.startswith("aa") else ""]
    engine = load_engine("torchvision")
    model = engine.build_model(
        engine.load_config(str(ROOT / "configs/sample/retinanet_R18.yaml"), keys)
    )
    checkpoint = read_checkpoint(str(out / "model_final.pth"))
    assert checkpoint.author == "torchvision"  # who expects its colours
    report = load_checkpoint(model, checkpoint)
    assert report.backbone_share == 1
    assert report.unused == ["linear.bias", "linear.weight"]


def test_an_interrupted_training_goes_on(script, train, monkeypatch):
    step = script.Classifier.training_step
    epochs = []

    def interrupted(self, batch, index):
        if self.current_epoch == 1:
            raise RuntimeError("a kill in the second epoch")
        return step(self, batch, index)

    def counted(self, batch, index):
        epochs.append(self.current_epoch)
        return step(self, batch, index)

    monkeypatch.setattr(script.Classifier, "training_step", interrupted)
    with pytest.raises(RuntimeError, match="a kill"):
        train()
    monkeypatch.setattr(script.Classifier, "training_step", counted)
    out = train()
    assert epochs == [1, 1, 1]
    last = torch.load(out / "last.ckpt", weights_only=False)
    assert last["global_step"] == 6
    # and when it is complete, it says again what it scored
    before = (out / "result.json").read_text()
    train()
    assert epochs == [1, 1, 1] and (out / "result.json").read_text() == before


@pytest.mark.parametrize(("right", "total"), [(0, 7), (7, 7), (3512, 10_000)])
def test_the_interval_is_wilsons(script, right, total):
    expected = binomtest(right, total).proportion_ci(method="wilson")
    low, high = script.interval(right, total)
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


def test_a_folder_that_cannot_be_used(script, images, tmp_path, capsys):
    def refuse(*words):
        with pytest.raises(SystemExit) as end:
            script.main([*map(str, words), "--output", str(tmp_path / "out")])
        assert end.value.code == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err.splitlines()[-1]

    assert "expected a folder train" in refuse("--data", tmp_path)
    assert "train has 24 images only" in refuse("--data", images)
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / split / name).mkdir(parents=True)
    assert str(tmp_path) in refuse("--data", tmp_path)  # no image
    for split, name in (("train", "a"), ("val", "b")):
        Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    assert "train and val differ in their classes, as in a" in refuse("--data", tmp_path)
