"""Damaged files of every kind through the commands: used, or refused in one line.

Where a command refuses a file (status 2) nothing has been written or changed. Where it takes one,
the damage did not matter, and what is read from the file later must go well too.
"""

import contextlib
import functools
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save as save_safetensors

from aa_detection.config import ConfigError, configs_folder
from aa_detection.data import CocoDataset, ImageError, open_coco
from aa_detection.engines import ENGINES, load_engine
from aa_detection.evaluation import coco_ap
from aa_detection.reports.runs import read_run

from .. import tiny_dataset
from .mutations import damaged, odd_json

BASE = configs_folder() / "sample/aa_retinanet_R18.yaml"
SETTINGS = f"_BASE_: {BASE}\n{tiny_dataset.SETTINGS}"
CONTENT = tiny_dataset.content(images=3)
RESULTS = [
    {"image_id": i, "category_id": c, "bbox": [4 * i, 5, 20, 30], "score": 0.1 * i + 0.05 * c}
    for i in (1, 2, 3)
    for c in (3, 7)
]
ATTENTION = "MODEL:\n  ATTENTION: {CONV: aa}"
SLOW = pytest.mark.slow


def seeds(ordinary: int, slow: int) -> pytest.MarkDecorator:
    """A few for the ordinary run, and many more."""
    more = [pytest.param(seed, marks=SLOW) for seed in range(ordinary, ordinary + slow)]
    return pytest.mark.parametrize("seed", [*range(ordinary), *more])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a sound configuration, dataset and two result files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aa_detection.data.catalog._registered", {})
    (tmp_path / "my.yaml").write_text(f"{SETTINGS}OUTPUT_DIR: out\n")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    (tmp_path / "images").mkdir()
    for image in CONTENT["images"]:
        Image.fromarray(pixels).save(tmp_path / "images" / image["file_name"])
    (tmp_path / "train.json").write_text(json.dumps(CONTENT))
    (tmp_path / "val.json").write_text(json.dumps(CONTENT))
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(RESULTS))
    return tmp_path


@pytest.fixture
def command(load_tool, place, capfd) -> Callable[..., int]:
    """``command(name, *words)``: its status, after what holds of any command has been seen."""

    def run(name: str, *words: str) -> int:
        before = _files(place)
        capfd.readouterr()
        status = load_tool(name).main([*words])
        err = capfd.readouterr().err
        after = _files(place)
        assert before.items() <= after.items()
        if status == 2:
            assert after == before
            assert err.startswith(f"{name}.py: ") and err.count("\n") == 1 and err.endswith("\n")
            assert err.removesuffix("\n").isprintable() and len(err) < 2000
            assert "Traceback" not in err
        return status

    return run


def require(engine: str) -> None:
    module = "detectron2" if engine == "detectron2" else "lightning"
    pytest.importorskip(module, reason=f"{module} is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Callable[[str], Any]:
    """``built(engine)``: the detector of the sound configuration, made once; not to be changed."""

    @functools.cache
    def build(engine: str) -> Any:
        require(engine)
        config = tmp_path_factory.mktemp("config") / "my.yaml"
        config.write_text(SETTINGS)
        module = load_engine(engine)
        return module.build_model(module.load_config(str(config)))

    return build


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def train(command, monkeypatch) -> Callable[..., int]:
    """``train(engine, *words)``: all that comes before the first step of a training.

    With a `model` none is built, which takes most of the time.
    """

    def run(engine: str, *words: str, model: Any = None) -> int:
        require(engine)
        engine_train = f"aa_detection.engines.{engine}.train"
        monkeypatch.setattr(f"{engine_train}.run_together", lambda *args, **kwargs: {})
        if model is not None:
            monkeypatch.setattr(f"{engine_train}.build_model", lambda cfg: model)
        data = [
            word
            for split in ("train", "val")
            for word in (f"--{split}-json", f"{split}.json", f"--{split}-images", "images")
        ]
        return command("train_net", "--engine", engine, "--config-file", "my.yaml", *data, *words)

    return run


@seeds(6, 700)
def test_annotations(seed, place, train, command, built):
    file = place / "train.json"
    if seed % 5:
        file.write_bytes(odd_json(CONTENT, seed))
    else:
        file.write_bytes(damaged(file.read_bytes(), seed))
    engine = ENGINES[seed % 2]
    words = ["--skip-images"] if seed % 3 else []
    status = train(engine, *words, model=built(engine))
    assert status in (0, 2)
    if status == 0:
        used_in_training_and_evaluation(CocoDataset("train", file, place / "images"))
    words = ("--train-json", "train.json", "--train-images", "images")
    assert command("check_dataset", *words) in (0, 1, 2)


def used_in_training_and_evaluation(dataset: CocoDataset) -> None:
    from aa_detection.engines.torchvision import load_config
    from aa_detection.engines.torchvision.data import DetectionDataset
    from aa_detection.engines.torchvision.module import _class_table

    images = DetectionDataset(load_config("my.yaml"), [dataset], train=True)
    for index in range(len(images)):
        with contextlib.suppress(ImageError):  # what --skip-images did not see ends in its line
            images[index, 0]
    coco = open_coco(dataset)
    results = [
        {"image_id": image, "category_id": category, "bbox": [1, 2, 3, 4], "score": 0.5}
        for image in coco.getImgIds()
        for category in coco.getCatIds()
    ]
    table = _class_table(coco_ap(coco, results))
    table.encode()


@seeds(4, 300)
def test_images(seed, place, command):
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    kind = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")[seed % 6]
    file = place / "images/2.png"
    Image.fromarray(pixels).save(file, format=kind)
    file.write_bytes(damaged(file.read_bytes(), seed))
    words = ("--train-json", "train.json", "--train-images", "images")
    assert command("check_dataset", *words) in (0, 1)


def checkpoint(seed: int) -> tuple[str, bytes]:
    """Name and bytes of a small file of weights, its values odd or its bytes damaged."""
    rng = random.Random(seed)
    weights = {
        f"backbone.bottom_up.res{i}.0.conv{j}.weight": torch.ones(4, 4, 3, 3)
        for i in (2, 3)
        for j in (1, 2, 3)
    }
    kind = rng.choice(("pth", "pth", "safetensors", "pkl"))
    if kind == "safetensors":
        return "w.safetensors", damaged(save_safetensors(weights), seed)
    if kind == "pkl":
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        return "w.pkl", damaged(pickle.dumps({"model": arrays}), seed)
    content: dict = {"model": weights, "iteration": 3, "__author__": "x"}
    if rng.random() < 0.5:
        name = rng.choice([*weights])
        weights[name] = rng.choice(odd_values())
        content["aa_detection"] = rng.choice([None, 3, {}, {"config": 3}, {"categories": "x"}])
        content["iteration"] = rng.choice([None, "x", 2**70, -5, [], 1.5])
    path = Path("content.pth")
    torch.save(content, path)
    data = path.read_bytes()
    path.unlink()
    return "w.pth", data if rng.random() < 0.3 else damaged(data, seed)


def odd_values() -> list:
    return [
        *(None, 3, "x", [], {}, [torch.ones(2)], {"a": torch.ones(2)}),
        torch.ones(4, 4, device="meta"),
        torch.ones(4, 4).to(torch.float8_e4m3fn),
        torch.ones(4, 4).to(torch.complex64),
        torch.ones(4, 4).to_sparse(),
        torch.full((4, 4, 3, 3), float("nan")),
        *(torch.ones(()), torch.ones(0, 4), torch.ones(4, 4, dtype=torch.bool)),
        torch.ones(4, 4, dtype=torch.float16),
    ]


@seeds(6, 500)
def test_checkpoints(seed, place, train, command, built):
    name, data = checkpoint(seed)
    (place / name).write_bytes(data)
    to = ("detectron2", "torchvision")[seed % 2]
    output = ("out.safetensors", "out.pth")[seed % 3 == 0]
    assert command("convert_weights", name, output, "--allow-pickle", "--to", to) in (0, 2)
    words = ("--allow-pickle", "--allow-partial-weights", "MODEL.WEIGHTS", name)
    assert train(ENGINES[seed % 2], *words, model=built(ENGINES[seed % 2])) in (0, 2)


@seeds(6, 400)
def test_result_files(seed, place, command, monkeypatch):
    file = place / "a.json"
    if seed % 5:
        file.write_bytes(odd_json(RESULTS, seed))
    else:
        file.write_bytes(damaged(file.read_bytes(), seed))
    if seed % 20:  # the plots take most of the time
        monkeypatch.setattr(
            "aa_detection.commands.compare_runs.write_comparison_plots", lambda *args: None
        )
    words = ("a.json", "b.json", "--annotations", "val.json", "--resamples", "100")
    assert command("compare_runs", *words) in (0, 2)


@seeds(4, 200)
def test_run_folders(seed, place):
    """What a report reads of a run."""
    rng = random.Random(seed)
    files = {
        "config.yaml": f"{SETTINGS}DATASETS: {{TEST: [v]}}\n".replace(
            "MODEL:", f"{ATTENTION}"
        ).encode(),
        "metrics.json": b"".join(
            json.dumps({"iteration": i, "total_loss": 1.5, "lr": 0.1}).encode() + b"\n"
            for i in range(3)
        ),
    }
    name = rng.choice([*files])
    if name == "config.yaml" and seed % 2:  # JSON is YAML
        files[name] = odd_json(yaml.safe_load(files[name]), seed)
    elif name == "metrics.json" and seed % 2:
        files[name] = odd_json({"iteration": 3, "total_loss": 1.5, "loss_cls": 2}, seed) + b"\n"
    else:
        files[name] = damaged(files[name], seed)
    run = place / "run"
    (run / "inference").mkdir(parents=True)
    (run / "inference/coco_instances_results.json").write_text("[]")
    for name, data in files.items():
        (run / name).write_bytes(data)
    try:
        read = read_run(run)
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    assert read.evaluations is not None and read.losses is not None and read.augmented is not None


@seeds(4, 200)
def test_configurations(seed, place, train):
    file = place / "my.yaml"
    file.write_bytes(damaged(file.read_bytes(), seed))
    assert train(ENGINES[seed % 2]) in (0, 2)
