"""tools/predict.py and tools/visualize_attention.py on either engine's checkpoint."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.engines import load_engine
from aa_detection.inference import sources

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/sample/aa_retinanet_R18.yaml")
TINY = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96", "MODEL.FPN.OUT_CHANNELS", "64",
        "MODEL.RETINANET.NUM_CONVS", "1", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0",
        "TEST.DETECTIONS_PER_IMAGE", "3"]  # fmt: skip


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    folder = write_sample_dataset(tmp_path / "my data", num_train=1, num_val=3)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "my data"))
    monkeypatch.chdir(tmp_path)
    return folder / "val"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """``checkpoint(engine_name, keys)``: a file of random weights."""

    @functools.cache
    def _checkpoint(engine_name, keys):
        package = load_engine(engine_name)
        torch.manual_seed(0)
        model = package.build_model(package.load_config(CONFIG, [*keys]))
        state = model.state_dict()
        if engine_name == "torchvision":
            from aa_detection.engines.torchvision.names import to_detectron2

            state = to_detectron2(model)
        path = tmp_path_factory.mktemp("weights") / "a checkpoint.pth"
        torch.save({"model": state}, path)
        return str(path)

    return _checkpoint


@pytest.fixture
def command(engine_name, dataset, checkpoint, load_tool):
    """``command(name, *words, conv="aa")``: runs a tool with a checkpoint of random weights."""

    def _command(name, *words, conv="aa", weights=None):
        keys = (*TINY, "MODEL.ATTENTION.CONV", conv)
        weights = weights or checkpoint(engine_name, keys)
        own = ["--config-file", CONFIG, "--engine", engine_name]
        return load_tool(name).main([*words, *own, *keys, "MODEL.WEIGHTS", weights])

    return _command


def one_line(capsys, *parts):
    lines = capsys.readouterr().err.strip().splitlines()
    # detectron2 warns on its own
    lines = [line for line in lines if line.startswith(("predict.py", "visualize_attention.py"))]
    assert len(lines) == 1, lines
    assert all(part in lines[0] for part in parts), lines[0]


def test_predict(command, dataset, capsys, tmp_path):
    words = ["--input", str(dataset), "--output", "my results", "--score-threshold", "0"]
    assert command("predict", *words) == 0
    printed = capsys.readouterr().out
    assert "3 images, 0 frames of 0 videos: 9 detections" in printed
    content = json.loads((tmp_path / "my results/detections.json").read_text())
    assert {category["name"] for category in content["categories"]} >= {"circle", "square"}
    assert len(content["annotations"]) == 9
    for image in content["images"]:
        assert Path(image["file_name"]).is_file()
        copy = Image.open(tmp_path / "my results" / Path(image["file_name"]).name)
        assert copy.size == (image["width"], image["height"])


def test_predict_in_bfloat16(command, dataset, tmp_path):
    words = ["--input", str(dataset), "--score-threshold", "0"]
    assert command("predict", *words, "--output", "exact") == 0
    assert command("predict", *words, "--output", "rounded", "--bfloat16") == 0
    exact, rounded = (
        json.loads((tmp_path / folder / "detections.json").read_text())["annotations"]
        for folder in ("exact", "rounded")
    )
    scores = [max(found["score"] for found in each) for each in (exact, rounded)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02) and exact != rounded


def test_predict_skips_what_is_no_image(command, dataset, capsys, tmp_path):
    broken = dataset / "000002.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert command("predict", "--input", str(dataset)) == 1
    assert len(list((tmp_path / "output/predictions").glob("*.png"))) == 2
    one_line(capsys, "skipped", "000002.png")


def test_predict_writes_nothing_if_no_input_can_be_read(command, capsys, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty.jpg").touch()
    assert command("predict", "--input", "broken.png", "--output", "new") == 2
    one_line(capsys, "broken.png cannot be read")
    assert not (tmp_path / "new").exists()
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier/detections.json").write_text("kept")
    words = ["--input", "broken.png", "empty.jpg", "--output", "earlier"]
    assert command("predict", *words) == 2
    one_line(capsys, "broken.png cannot be read", "1 more cannot be read")
    assert (tmp_path / "earlier/detections.json").read_text() == "kept"


def test_predict_with_names_of_a_file(command, dataset, capsys, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    words = ["--input", str(dataset / "000001.png"), "--class-names", "names.txt"]
    assert command("predict", *words) == 0
    content = json.loads((tmp_path / "output/predictions/detections.json").read_text())
    assert [category["name"] for category in content["categories"]] == list("abcde")


@pytest.mark.parametrize(
    "words, weights, parts",
    [
        (["--input", "missing.jpg"], None, ["missing.jpg", "no such file"]),
        (["--input", "my data"], "missing.pth", ["MODEL.WEIGHTS", "missing.pth"]),
        (["--input", "my data", "--class-names", "none.txt"], None, ["none.txt", "No such file"]),
    ],
    ids=["input", "weights", "names"],
)
def test_predict_refuses(command, capsys, tmp_path, words, weights, parts):
    assert command("predict", *words, weights=weights) == 2
    one_line(capsys, *parts)
    assert not (tmp_path / "output/predictions").exists()


def test_predict_interrupted(command, dataset, capsys, tmp_path, monkeypatch):
    """Ctrl-C in the second batch: what the first found is written."""
    calls = []

    def stop(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(*args)

    read = sources.read_image
    monkeypatch.setattr(sources, "read_image", stop)
    words = ["--input", str(dataset), "--score-threshold", "0", "--batch-size", "1"]
    assert command("predict", *words) == 130
    one_line(capsys, "interrupted")
    content = json.loads((tmp_path / "output/predictions/detections.json").read_text())
    assert len(content["images"]) == 1 and len(content["annotations"]) == 3


def test_visualize_attention(command, dataset, capsys, tmp_path):
    picture = str(dataset / "000001.png")
    words = [
        "--input",
        picture,
        "--output",
        "out put",
        "--query",
        "3",
        "4.5",
        "--query",
        "60",
        "70",
    ]
    assert command("visualize_attention", *words) == 0
    folder = tmp_path / "out put"
    assert sorted(path.name for path in folder.iterdir()) == [
        "000001.html", "000001_query_1.png", "000001_query_2.png"
    ]  # fmt: skip
    figures = [np.asarray(Image.open(folder / f"000001_query_{i}.png")) for i in (1, 2)]
    assert figures[0].shape == figures[1].shape and (figures[0] != figures[1]).any()
    assert "6 attention layers" in capsys.readouterr().out


def test_visualize_attention_of_the_detections(command, dataset, tmp_path):
    picture = shutil.copy(dataset / "000001.png", tmp_path / "a picture.png")
    words = ["--input", str(picture), "--output", "out"]
    assert command("visualize_attention", *words, "--score-threshold", "0") == 0
    assert len(list((tmp_path / "out").glob("a picture_query_*.png"))) == 3
    shutil.rmtree(tmp_path / "out")
    # nothing has such a score: the centre of the picture
    assert command("visualize_attention", *words, "--score-threshold", "1") == 0
    assert len(list((tmp_path / "out").glob("a picture_query_*.png"))) == 1


@pytest.mark.parametrize(
    "words, options, parts",
    [
        (["--query", "5000", "3"], {}, ["--query 5000 3", "outside", "pixels"]),
        ([], {"conv": ""}, ["no augmented convolution"]),
        ([], {"weights": "missing.pth"}, ["MODEL.WEIGHTS", "missing.pth"]),
    ],
    ids=["outside", "no attention", "weights"],
)
def test_visualize_attention_refuses(command, dataset, capsys, tmp_path, words, options, parts):
    words = ["--input", str(dataset / "000001.png"), *words]
    assert command("visualize_attention", *words, **options) == 2
    one_line(capsys, *parts)
    assert not (tmp_path / "output/attention").exists()


def test_visualize_attention_of_no_image(command, capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    assert command("visualize_attention", "--input", "notes.txt") == 2
    one_line(capsys, "notes.txt")
