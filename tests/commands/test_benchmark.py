"""The benchmark's command line at the smallest sizes; its cases share this process."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from aa_detection.attention import native
from aa_detection.studies import timing
from aa_detection.studies.benchmarks import detector, maps, onnx, operator


@pytest.fixture
def measure(load_tool, monkeypatch, tmp_path):
    """``measure(command, *words)``: the rows and the text that it leaves in a folder of its own."""
    monkeypatch.setattr(timing, "ENOUGH_S", 0.0)
    for module in (operator, detector, maps, onnx):
        monkeypatch.setattr(module, "in_fresh_process", lambda function, *args: function(*args))
    small = {"RetinaNet-R50": "retinanet_R18", "AA-RetinaNet-R50": "aa_retinanet_R18"}
    configs = {name: f"sample/{config}.yaml" for name, config in small.items()}
    monkeypatch.setattr(detector, "CONFIGS", configs)

    def _measure(command, *words):
        output = tmp_path / "out put"
        assert load_tool("benchmark").main([command, *words, "--output", str(output)]) == 0
        result = json.loads((output / f"{command}.json").read_text())
        return result["rows"], (output / f"{command}.txt").read_text()

    return _measure


def test_attention_of_two_sizes_one_after_the_other(measure, tmp_path):
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    rows, text = measure("attention", "--sizes", "4x5")
    names = {row["name"] for row in rows}
    assert names >= {"plain attention", "dense", "blocked", "folded", "auto"}
    assert ("native" in names) == (native.absent is None)
    assert all(row["forward_ms"] > 0 and row["forward_backward_ms"] > 0 for row in rows)
    assert sum("forward_mb" in row for row in rows) == 2 * len(names)
    assert "4x5  7, 3  plain attention" in text and "4x5 20, 3  plain attention" in text
    # what was measured before stays
    both, text = measure("attention", "--sizes", "3x4")
    assert both[len(both) // 2 :] == rows and "3x4  7, 3  plain attention" in text
    assert (tmp_path / "out put/attention.png").stat().st_size > 1000


def test_attention_beside_processes_that_spin(load_tool, monkeypatch, tmp_path):
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    children = []

    def take_turns(cases, device):
        count = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended
                count += f"getppid() == {os.getpid()}:".encode() in path.read_bytes()
        children.append(count)
        return {name: {"forward_ms": 1.0, "forward_backward_ms": 2.0} for name in cases}

    monkeypatch.setattr(operator, "take_turns", take_turns)
    monkeypatch.setattr(operator, "in_fresh_process", lambda function, *args: function(*args))
    words = ["attention", "--sizes", "4x5", "--busy", "2", "--output", str(tmp_path)]
    assert load_tool("benchmark").main(words) == 0
    assert children == [2, 2]
    assert "spinning processes 2" in (tmp_path / "attention_busy.txt").read_text()
    take_turns({}, "cpu")
    assert children[-1] == 0


@pytest.mark.slow
def test_exported_backbones(measure):
    for package in ("lightning", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    rows, text = measure("onnx", "--sizes", "160x192")
    assert [row["name"] for row in rows] == ["RetinaNet-R50", "AA-RetinaNet-R50"]
    assert all(row["torch_ms"] > 0 and row["onnx_ms"] > 0 for row in rows)
    assert "160x192  AA-RetinaNet-R50" in text


def test_detectors(measure):
    pytest.importorskip("lightning", reason="Lightning is not installed")
    rows, text = measure("model", "--sizes", "64x96")
    assert [row["name"] for row in rows] == ["RetinaNet-R50", "AA-RetinaNet-R50"]
    assert all(row["forward_backward_ms"] > row["forward_ms"] > 0 for row in rows)
    assert "64x96  AA-RetinaNet-R50" in text


def test_maps(measure):
    pytest.importorskip("lightning", reason="Lightning is not installed")
    ((row,), text) = measure("maps", "--sizes", "64x96")
    assert row["page_mb"] > 0 and row["figures_ms"] > 0
    assert "20 figures, as PNG" in text


@pytest.mark.parametrize("size", ["64", "64x", "0x64", "axb", "-64x64"])
@pytest.mark.parametrize(
    ("name", "words"), [("benchmark", ["maps", "--sizes"]), ("sweep_ratio", ["cost", "--size"])]
)
def test_a_size_that_is_none(load_tool, capsys, name, words, size):
    with pytest.raises(SystemExit) as end:
        load_tool(name).main([*words[:-1], f"{words[-1]}={size}"])
    assert end.value.code == 2
    assert f"argument {words[-1]}: expected HxW in pixels, got '{size}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("mars", "must be cpu or cuda, got 'mars'"),
        ("cuda", "cuda asks for a GPU, and PyTorch finds none here"),
    ],
)
@pytest.mark.parametrize(("name", "command"), [("benchmark", "maps"), ("sweep_ratio", "cost")])
def test_a_device_that_is_none(load_tool, capsys, monkeypatch, name, command, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        load_tool(name).main([command, "--device", device])
    assert end.value.code == 2
    assert f"argument --device: {message}" in capsys.readouterr().err
