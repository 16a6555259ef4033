"""The command line draws what the function draws, and names what it cannot draw in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.visualization.contact_sheet import write_contact_sheet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("contact_sheet").main


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The ground truth of a small sample dataset as detections."""
    folder = write_sample_dataset(tmp_path / "my data", num_train=1, num_val=4)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parent))
    annotations = json.loads((folder / "annotations/val.json").read_bytes())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    file = tmp_path / "results.json"
    file.write_text(
        json.dumps([{**{key: a[key] for key in keys}, "score": 0.9} for a in annotations])
    )
    return file


def test_draws_what_the_function_draws(main, results, tmp_path, capsys):
    sheet, folder = tmp_path / "new folder/sheet.png", tmp_path / "my data/aa_sample"
    options = ["--detections", str(results), "--output", str(sheet), "--max-images", "2"]
    assert main(["--dataset", "aa_sample_val", *options]) == 0
    assert capsys.readouterr().out == f"contact sheet: {sheet}\n"
    expected = write_contact_sheet(
        tmp_path / "expected.png",
        folder / "annotations/val.json",
        folder / "val",
        results,
        max_images=2,
    )
    with Image.open(sheet) as image, Image.open(expected) as wanted:
        assert (np.asarray(image) == np.asarray(wanted)).all()


def test_an_unknown_dataset_is_one_line(main, results, tmp_path, capsys):
    options = ["--detections", str(results), "--output", str(tmp_path / "sheet.png")]
    assert main(["--dataset", "aa_sample_vel", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("contact_sheet.py: unknown dataset 'aa_sample_vel', did you mean")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "sheet.png").exists()
