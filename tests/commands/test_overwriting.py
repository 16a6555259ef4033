"""No command writes over what it reads: it ends in one line and leaves every file as it was."""

import json
import os
import shutil
from pathlib import Path

import pytest

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/sample/aa_retinanet_R18.yaml")
PREDICT = ["--config-file", CONFIG, "--engine", "torchvision"]
RUN = "MODEL: {ATTENTION: {}}\nDATASETS: {TEST: [aa_sample_val]}\n"


@pytest.fixture
def folder(sample_dataset, tmp_path, monkeypatch):
    """A folder with everything that a command reads, which is also the current one."""
    pytest.importorskip("lightning", reason="Lightning is not installed")
    shutil.copytree(sample_dataset, tmp_path / "aa_sample")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to("aa_sample/val")
    for name in ("val.json", "a.json", "comparison.json", "weights.pth", "weights.pt2", "run.yaml"):
        (tmp_path / name).write_text("[]")
    shutil.copy("aa_sample/annotations/val.json", "val.json")
    os.link("a.json", "b.json")
    photo = min((tmp_path / "aa_sample/val").iterdir())
    shutil.copy(photo, tmp_path / "photo.jpg")
    (tmp_path / "album").mkdir()
    (tmp_path / "album/photo.jpg").symlink_to("../photo.jpg")
    (tmp_path / "run/inference").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text(RUN)
    (tmp_path / "run/inference/coco_instances_results.json").write_text("[]")
    (tmp_path / "labels").mkdir()
    (tmp_path / "out").mkdir()
    shutil.copy("val.json", "out/detections.json")
    return tmp_path


def everything(folder):
    paths = sorted(folder.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def sheet(detections, output):
    return ["--dataset", "aa_sample_val", "--detections", detections, "--output", output]


def gains(**options):
    own = {"config-file": CONFIG}
    for split in ("train", "val"):
        own |= {f"{split}-json": "val.json", f"{split}-images": "photos"}
    return [word for key, value in (own | options).items() for word in (f"--{key}", value)]


CASES = [
    ("predict", ["--input", "photos", "--output", "photos", *PREDICT], "is also"),
    ("predict", ["--input", "photos", "--output", "aa_sample/val", *PREDICT], "is also"),
    ("predict", ["--input", "photos", "--output", "photos/out", *PREDICT], "lies in"),
    ("predict", ["--input", "photos", "--output", ".", *PREDICT], "contains"),
    ("predict", ["--input", "photo.jpg", "--output", ".", *PREDICT], "contains"),
    # the folder's photo is a link to one in the current folder
    ("predict", ["--input", "album", "--output", ".", *PREDICT], "contains"),
    (
        "predict",
        ["--input", "photos", "--output", "out", "--class-names", "out/detections.json", *PREDICT],
        "is also",
    ),
    ("contact_sheet", sheet("a.json", "a.json"), "is also"),
    ("contact_sheet", sheet("a.json", "b.json"), "is also"),
    ("contact_sheet", sheet("a.json", "aa_sample/annotations/val.json"), "is also"),
    ("contact_sheet", sheet("a.json", "photos/sheet.png"), "lies in"),
    (
        "compare_runs",
        ["a.json", "comparison.json", "--annotations", "val.json", "--output", "."],
        "is also",
    ),
    ("report", ["run", "--no-attention", "--output", "run/config.yaml"], "is also"),
    (
        "report",
        ["run", "--no-attention", "--output", "run/inference/coco_instances_results.json"],
        "lies in",
    ),
    (
        "report",
        ["run", "--no-attention", "--val-json", "val.json", "--val-images", "photos"]
        + ["--output", "val.json"],
        "is also",
    ),
    (
        "convert_dataset",
        ["voc", "--images", "photos", "--annotations", "labels", "--output", "labels/a.json"],
        "lies in",
    ),
    (
        "convert_dataset",
        ["yolo", "--images", "photos", "--annotations", "labels", "--names", "run.yaml"]
        + ["--output", "./run.yaml"],
        "is also",
    ),
    ("convert_weights", ["weights.pth", "./weights.pth"], "is also"),
    (
        "export_model",
        ["--config-file", CONFIG, "--format", "torch_export", "--engine", "torchvision"]
        + ["--output", "weights.pt2", "MODEL.WEIGHTS", "weights.pt2"],
        "is also",
    ),
    ("reproduce_gains", gains(work="photos"), "is also"),
    ("reproduce_gains", gains(records="."), "contains"),
    (
        "study_starts",
        ["--config-file", CONFIG, "--engine", "torchvision", "--record", "weights.pth"]
        + ["MODEL.WEIGHTS", "weights.pth"],
        None,  # read as rows, which they are not
    ),
    (
        "study_starts",
        ["--config-file", CONFIG, "--engine", "torchvision", "--work", "run"]
        + ["MODEL.WEIGHTS", "run/config.yaml"],
        "contains",
    ),
]


@pytest.mark.parametrize(
    ("name", "words", "relation"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_an_input_is_not_written_over(load_tool, folder, capsys, name, words, relation):
    before = everything(folder)
    assert load_tool(name).main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"{name}.py: ")
    assert relation is None or f" {relation} " in line, line
    assert everything(folder) == before


def test_a_sheet_goes_beside_the_detections(load_tool, folder, capsys):
    words = sheet("run/inference/coco_instances_results.json", "run/sheet.png")
    assert load_tool("contact_sheet").main(words) == 0, capsys.readouterr().err
    assert (folder / "run/sheet.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "run/inference/coco_instances_results.json").read_text()) == []
