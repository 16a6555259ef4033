"""From two short trainings to the page, and what a user's mistakes print."""

from pathlib import Path

import pytest

from aa_detection.engines import load_engine

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "MODEL.FPN.OUT_CHANNELS", "64",
    "MODEL.RETINANET.NUM_CONVS", "1",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64",
    "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.MAX_ITER", "1",
    "SOLVER.STEPS", "()",
]  # fmt: skip


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("report").main


@pytest.fixture(scope="module")
def runs(sample_root, tmp_path_factory):
    """A plain and an augmented run, in folders of the same name."""
    engine = load_engine("torchvision")
    folders = []
    for config in ("retinanet_R18", "aa_retinanet_R18"):
        folder = tmp_path_factory.mktemp(config) / "output"
        path = str(ROOT / f"configs/sample/{config}.yaml")
        engine.run(engine.load_config(path, [*TINY, "OUTPUT_DIR", str(folder)]))
        folders.append(str(folder))
    return folders


def fail(main, capsys, *argv):
    assert main(list(argv)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("report.py: ")
    return line


def test_a_page_of_two_runs(main, runs, tmp_path, capsys):
    path = tmp_path / "a folder" / "page.html"
    assert main([*runs, "--engine", "torchvision", "--output", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    page = path.read_text(encoding="utf-8")
    assert "<h2>Comparison</h2>" in page and "<h2>Attention</h2>" in page
    # folders of one name are told apart by those above
    for run in runs:
        assert f"<td>{Path(run).parent.name}/output</td>" in page


def test_the_default_place_is_the_runs_own(main, runs):
    assert main([runs[0]]) == 0
    page = (Path(runs[0]) / "report.html").read_text(encoding="utf-8")
    assert "<h2>Attention</h2>" not in page and "<h1>output</h1>" in page


def test_no_attention_reads_no_weights(main, runs, tmp_path):
    weights = Path(runs[1]) / "model_final.pth"
    hidden = weights.rename(weights.with_suffix(".hidden"))
    try:
        assert main([runs[1], "--no-attention", "--output", str(tmp_path / "page.html")]) == 0
    finally:
        hidden.rename(weights)


def test_without_weights_attention_cannot_be_shown(main, runs, capsys, tmp_path):
    weights = Path(runs[1]) / "model_final.pth"
    hidden = weights.rename(weights.with_suffix(".hidden"))
    try:
        line = fail(main, capsys, runs[1], "--engine", "torchvision")
    finally:
        hidden.rename(weights)
    assert "model_final.pth" in line


def test_own_data(main, runs, sample_dataset, tmp_path):
    files = [str(sample_dataset / "annotations" / "val.json"), str(sample_dataset / "val")]
    options = ["--val-json", files[0], "--val-images", files[1], "--no-attention"]
    assert main([runs[1], *options, "--output", str(tmp_path / "page.html")]) == 0


def test_mistakes_are_one_line(main, runs, capsys, tmp_path, monkeypatch):
    assert "expected the output directory of a run" in fail(main, capsys, str(tmp_path))
    assert "given twice" in fail(main, capsys, runs[0], runs[0])
    blocked = tmp_path / "file"
    blocked.touch()
    line = fail(main, capsys, runs[0], "--output", str(blocked / "page.html"))
    assert str(blocked) in line
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    assert "val.json does not exist" in fail(main, capsys, runs[0])
