"""The command line: both datasets, and what stands where one should be written."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("draw_dataset").main


@pytest.mark.parametrize("name", ["sample", "context"])
def test_draws_it_once(name, main, tmp_path, capsys):
    command = [name, "--root", str(tmp_path), "--num-train", "2", "--num-val", "1"]
    assert main(command) == 0
    folder = tmp_path / f"aa_{name}"
    assert capsys.readouterr().out == f"{name} dataset: 2 + 1 images in {folder}\n"
    annotations = json.loads((folder / "annotations/train.json").read_text())
    assert len(annotations["images"]) == 2 and annotations["info"]["seed"] == 0
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


@pytest.mark.parametrize("words", [[], ["--seed", "1"], ["--num-train", "0"]])
def test_an_error_is_one_line_and_status_2(words, main, tmp_path, capsys):
    (tmp_path / "aa_sample").touch()
    assert main(["sample", "--root", str(tmp_path), *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("draw_dataset.py: ") and printed.err.count("\n") == 1
    assert (tmp_path / "aa_sample").is_file()
