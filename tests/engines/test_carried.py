"""Checkpoints that say what they are: used without any other file of their run."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

import aa_detection
from aa_detection.checkpoints import read_about, read_checkpoint
from aa_detection.config import ConfigError
from aa_detection.data import catalog
from aa_detection.engines import ENGINES, RunOptions, load_engine
from aa_detection.reports.runs import read_run

PLAIN = (str, int, float, bool, type(None))


@pytest.fixture
def alone(trained, tmp_path, monkeypatch):
    """``alone(engine)``: a copy of a run's model_final.pth where no dataset is to be found."""

    def _alone(engine):
        path = tmp_path / "some where" / "a file.pth"
        path.parent.mkdir()
        shutil.copy(trained(engine)[0] / "model_final.pth", path)
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nothing"))
        monkeypatch.chdir(path.parent)
        return path

    return _alone


def is_plain(value):
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(each) for key, each in value.items())
    return all(map(is_plain, value)) if isinstance(value, list) else type(value) in PLAIN


def test_what_it_carries(engine, engine_name, trained, sample_dataset):
    output, _ = trained(engine)
    content = torch.load(output / "model_final.pth", weights_only=True)
    carried = content["aa_detection"]
    assert is_plain(carried)
    assert carried["config"] == (output / "config.yaml").read_text()
    annotations = sample_dataset / "annotations/train.json"
    categories = json.loads(annotations.read_text())["categories"]
    assert carried["categories"] == [{"id": c["id"], "name": c["name"]} for c in categories]
    digest = hashlib.sha256(annotations.read_bytes()).hexdigest()
    assert carried["datasets"] == [{"name": "aa_sample_train", "sha256": digest}]
    assert carried["engine"].startswith(f"{engine_name} ")
    assert carried["versions"]["torch"] == torch.__version__
    assert carried["versions"]["aa_detection"] == aa_detection.__version__


def test_plain_detectron2_loads_it(detectron2_engine, trained, tiny_config):
    from detectron2.checkpoint import DetectionCheckpointer

    pytest.importorskip("lightning", reason="Lightning is not installed")
    for name in ENGINES:
        path = trained(load_engine(name))[0] / "model_final.pth"
        model = detectron2_engine.build_model(tiny_config(detectron2_engine))
        DetectionCheckpointer(model).load(str(path))
        saved = torch.load(path, weights_only=True)["model"]
        state = model.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in saved.items())
        assert len(saved) > 50


@pytest.mark.parametrize("other", ENGINES)
def test_loads_from_the_file_alone(engine, alone, trained, other, sample_dataset):
    """On the engine that trained it and on the other."""
    pytest.importorskip({"torchvision": "lightning"}.get(other, other))
    path = alone(engine)
    reader = load_engine(other)
    cfg = reader.load_config(str(path))
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.FPN.OUT_CHANNELS) == (str(path), 64)
    detector = reader.load_detector(cfg)
    content = json.loads((sample_dataset / "annotations/train.json").read_text())
    assert detector.categories == {c["id"]: c["name"] for c in content["categories"]}
    assert len(detector([np.full((60, 90, 3), 90, np.uint8)])[0]) > 0


def test_overrides_come_after(engine, alone):
    path = alone(engine)
    cfg = engine.load_config(str(path), ["MODEL.WEIGHTS", "x.pth", "INPUT.MIN_SIZE_TEST", "32"])
    assert (cfg.MODEL.WEIGHTS, cfg.INPUT.MIN_SIZE_TEST) == ("x.pth", 32)


def test_evaluates_from_the_file_alone(engine, trained, tmp_path):
    output, metrics = trained(engine)
    path = shutil.copy(output / "model_final.pth", tmp_path / "final.pth")
    cfg = engine.load_config(str(path), ["OUTPUT_DIR", str(tmp_path / "out")])
    assert engine.run(cfg, RunOptions(eval_only=True))["bbox"]["AP"] == metrics["bbox"]["AP"]


def test_own_datasets_keep_their_names(
    engine, engine_name, sample_dataset, load_tool, tmp_path, monkeypatch
):
    """From ``--train-json``, whose files are gone when the detector is used."""
    from .conftest import AA_CONFIG, TINY

    for split in ("train", "val"):
        shutil.copytree(sample_dataset / split, tmp_path / split)
        content = json.loads((sample_dataset / f"annotations/{split}.json").read_text())
        for category in content["categories"]:
            category["name"] = f"my {category['name']}"
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    words = ["--config-file", AA_CONFIG, "--engine", engine_name]
    for split in ("train", "val"):
        words += [f"--{split}-json", f"{split}.json", f"--{split}-images", split]
    words += [*TINY, "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "OUTPUT_DIR", "out"]
    assert load_tool("train_net").main(words) == 0
    for name in ("train", "train.json", "val.json", "out/config.yaml"):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    catalog._registered.clear()

    weights, picture = "out/model_final.pth", "val/000001.png"
    own = ["--config-file", weights, "--engine", engine_name, "--input", picture]
    assert load_tool("predict").main([*own, "--score-threshold", "0", "--output", "found"]) == 0
    found = json.loads((tmp_path / "found/detections.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert {c["id"]: c["name"] for c in found["categories"]} == names
    assert all(c["name"].startswith("my ") for c in found["categories"])
    assert load_tool("visualize_attention").main([*own, "--output", "seen"]) == 0
    assert (tmp_path / "seen/000001.html").is_file()


def test_exports_the_file_alone(torchvision_engine, alone, load_tool, monkeypatch):
    from aa_detection.export import check

    monkeypatch.setattr(check, "SIZES", ((320, 320),))
    path = alone(torchvision_engine)
    words = ["--format", "torch_export", "--output", "graph.pt2", "--engine", "torchvision"]
    assert load_tool("export_model").main(["--config-file", str(path), *words]) == 0
    assert (path.parent / "graph.pt2").is_file()


def test_a_run_without_its_config_file(engine, trained, tmp_path):
    """What a report reads of it."""
    output, _ = trained(engine)
    folder = shutil.copytree(output, tmp_path / output.name)
    (folder / "config.yaml").unlink()
    assert read_run(folder).config == read_run(output).config
    (folder / "model_final.pth").unlink()
    with pytest.raises(ConfigError, match="config.yaml: No such file or directory: expected the"):
        read_run(folder)


def test_class_names_of_another_number_are_not_taken(engine, alone, tmp_path):
    path = alone(engine)
    content = torch.load(path, weights_only=True)
    del content["aa_detection"]["categories"][0]
    torch.save(content, path)
    detector = engine.load_detector(engine.load_config(str(path)))
    assert list(detector.categories.values()) == [f"class {i}" for i in range(1, 6)]


def test_checkpoints_of_a_training_carry_it_too(engine, run, tmp_path):
    run(engine, tmp_path, "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()")
    pattern = "model_0000001.pth" if "detectron2" in engine.__name__ else "*.ckpt"
    (path,) = tmp_path.rglob(pattern)
    about = read_about(read_checkpoint(str(path)))
    assert len(about.categories) == 5
    assert engine.load_config(str(path)).MODEL.WEIGHTS == str(path)


def test_a_file_without_config(engine, alone):
    path = alone(engine)
    torch.save(torch.load(path, weights_only=True)["model"], path)
    with pytest.raises(ConfigError, match="^.*a file.pth: carries no config; expected a YAML"):
        engine.load_config(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda carried: "a text", "'aa_detection' is not what training writes there"),
        (lambda carried: carried | {"config": 3}, "'aa_detection' is not what training"),
        (lambda carried: carried | {"categories": [{"id": "1"}]}, "'aa_detection' is not what"),
        (
            lambda carried: carried | {"config": "NO_KEY: 3"},
            "its config: unknown config key NO_",
        ),
        (
            lambda carried: carried | {"config": "_BASE_: a.yaml"},
            "expected a whole config, got",
        ),
        (lambda carried: carried | {"config": "!!python/name:os.system"}, "not a YAML file"),
    ],
    ids=["text", "config", "categories", "key", "base", "code"],
)
def test_what_no_training_wrote(engine, alone, change, message):
    path = alone(engine)
    content = torch.load(path, weights_only=True)
    content["aa_detection"] = change(content["aa_detection"])
    torch.save(content, path)
    with pytest.raises(ConfigError, match=message) as refused:
        engine.load_config(str(path))
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
