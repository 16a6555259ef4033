"""The command line: what it prints, its exit status, and what a user's mistakes print."""

import json
from pathlib import Path

import pytest

from aa_detection.data import catalog
from aa_detection.data.synthetic.sample import write_sample_dataset

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/sample/aa_retinanet_R18.yaml")


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("check_dataset").main


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A dataset under a root with a space in its name; the names of own data are forgotten."""
    root = tmp_path / "data sets"
    write_sample_dataset(root, num_train=4, num_val=2)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    monkeypatch.setattr(catalog, "_registered", {})
    return root / "aa_sample"


def own(sample, split="train"):
    annotations = str(sample / "annotations" / f"{split}.json")
    return [f"--{split}-json", annotations, f"--{split}-images", str(sample / split)]


def change(sample, edit):
    path = sample / "annotations" / "train.json"
    content = json.loads(path.read_bytes())
    edit(content)
    path.write_text(json.dumps(content))


def test_own_data_without_a_config(main, sample, capsys):
    assert main([*own(sample), *own(sample, "val")]) == 0
    out = capsys.readouterr().out
    assert "4 images" in out and "2 images" in out and "5 categories" in out
    assert out.count("errors: 0") == 2 and "images opened in" in out


def test_the_datasets_of_a_config(main, sample, capsys):
    assert main(["--config-file", CONFIG, "--engine", "torchvision", "--skip-images"]) == 0
    out = capsys.readouterr().out
    assert str(sample / "annotations" / "val.json") in out
    assert "images opened" not in out


def test_every_error_is_told_and_the_status_is_1(main, sample, capsys):
    def edit(content):
        content["annotations"][0]["category_id"] = 99
        content["annotations"][1]["bbox"][2] = float("nan")

    change(sample, edit)
    assert main(own(sample)) == 1
    out = capsys.readouterr().out
    assert "99" in out and "errors: 2" in out


def test_the_number_of_classes_is_the_configs(main, sample, capsys):
    options = ["--config-file", CONFIG, "--engine", "torchvision", "--skip-images", *own(sample)]
    assert main([*options, "MODEL.RETINANET.NUM_CLASSES", "80"]) == 1
    assert "MODEL.RETINANET.NUM_CLASSES" in capsys.readouterr().out


def test_a_damaged_image_is_found_by_opening_it(main, sample, capsys):
    image = next((sample / "train").iterdir())
    image.write_bytes(image.read_bytes()[:200])
    assert main([*own(sample), "--skip-images"]) == 0
    capsys.readouterr()
    assert main(own(sample)) == 1
    assert image.name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name a dataset"),
        (["--train-json", "a.json"], "--train-json and --train-images go together"),
        (["--train-json", "a", "--train-images", "b", "KEY", "1"], "KEY VALUE pairs go with"),
    ],
    ids=" ".join,
)
def test_arguments_that_do_not_go_together(main, capsys, argv, message):
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_dataset(main, sample, capsys):
    options = ["--config-file", CONFIG, "--engine", "torchvision"]
    assert main([*options, "DATASETS.TRAIN", "('aa_sample_trian',)"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("check_dataset.py: ") and "aa_sample_trian" in line
