"""The command line, and the table's figures against the published."""

from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/sample/aa_retinanet_R18.yaml")


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("analyze_model")


def test_a_config(tool, engine_name, capsys):
    command = ["--engine", engine_name, "--config-file", CONFIG, "--size", "64", "96"]
    assert tool.main([*command, "MODEL.ATTENTION.AA.NUM_HEADS", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("parameters") and lines[0].endswith(" M")
    assert lines[1].endswith("1 x 3 x 64 x 96")
    rows = {line.split()[0]: line.split()[1:] for line in lines[5:]}
    last = "res5" if engine_name == "detectron2" else "layer4"
    tokens = 2 * 3
    assert rows[last][:2] == ["2", "2x3"]
    total = 4 * 4 * 2 * (24**2 + 24**2 + tokens**2) / 1e6
    assert rows["total"][:2] == ["6", f"{total:.1f}"]
    # res3, pooled, and res4 are 4x6 = 24 tokens


def test_a_two_stage_config(tool, capsys):
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    config = str(ROOT / "configs/aa_faster_rcnn_R101_FPN.yaml")
    small = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    assert tool.main(["--config-file", config, "--size", "64", "64", *small]) == 0
    assert "total" in capsys.readouterr().out


def test_wrong_input_ends_in_one_line(tool, capsys):
    assert tool.main(["--config-file", "nowhere.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("analyze_model.py: nowhere.yaml: ") and error.count("\n") == 1


def test_the_table_prints_differences(tool, capsys, monkeypatch):
    make = tool.classification.aa_mnasnet
    row = tool.PublishedNetwork("AA-MnasNet", partial(tool._classifier, make, 32), 5.0, None)
    monkeypatch.setattr(tool, "published_networks", lambda engine: [row])
    assert tool.main(["--table"]) == 0
    fields = capsys.readouterr().out.splitlines()[1].split()
    assert fields[:4] == ["AA-MnasNet", "4.68", "5.0", "-6.45"] and fields[-1] == "-"


@pytest.mark.parametrize("depth", [50, 101])
def test_changes_of_the_retinanets_are_the_published(tool, depth):
    rows = {
        row.name: row
        for row in tool.published_networks("auto")
        if f"RetinaNet-R{depth}" in row.name
    }
    engine = tool.load_engine("auto")
    counts = {}
    for name, row in rows.items():
        cfg = engine.load_config(row.analyze.args[1], ["MODEL.DEVICE", "cpu"])
        cfg.MODEL.ATTENTION.AA.MAX_IMAGE_SIZE = 640
        counts[name] = sum(p.numel() for p in engine.build_model(cfg).parameters()) / 1e6
    plain = f"RetinaNet-R{depth}"
    for name, row in rows.items():
        published = row.parameters - rows[plain].parameters
        assert counts[name] - counts[plain] == pytest.approx(published, abs=0.1), name
