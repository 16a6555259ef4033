"""The study of attention's choices, with a program in place of the training and a small image."""

import json
from pathlib import Path

import pytest

from aa_detection.engines.runs import Runs
from aa_detection.engines.torchvision.config import load_config
from aa_detection.models import timing

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
import json, sys
from pathlib import Path

words = dict(zip(sys.argv[1:], sys.argv[2:]))
output = Path(words["OUTPUT_DIR"])
score = 100 * float(words.get("MODEL.ATTENTION.AA.VALUE_RATIO", 0.1)) + int(words["SEED"])
(output / "config.yaml").write_text("MODEL: {DEVICE: cpu}")
(output / "metrics.json").write_text(json.dumps({"bbox/AP": score}))
(output / "inference").mkdir(exist_ok=True)
(output / "inference" / "coco_instances_results.json").write_text("[]")
"""


FACTOR_OF = {
    "AA.VALUE_RATIO": "value ratio",
    "AA.KEY_RATIO": "key ratio",
    "AA.NUM_HEADS": "heads",
    "STAGES": "stages",
    "AA.POOL_STAGES": "pooled stages",
    "AA.RELATIVE": "positions",
    "AA.ABSOLUTE": "positions",
}


@pytest.fixture
def tool(load_tool, monkeypatch):
    tool = load_tool("sweep_ratio")
    monkeypatch.setattr(tool, "NUM_TRAIN", 2)
    monkeypatch.setattr(tool, "NUM_VAL", 1)
    return tool


def test_every_choice_is_a_config_of_both_detectors(tool):
    names = set()
    for choice in tool.choices():
        for file in (tool.TRAINED, tool.COSTED):
            cfg = load_config(str(file), choice.overrides)
            assert cfg.MODEL.ATTENTION.CONV == "aa"
        names.add(choice.name)
        # one factor at a time
        keys = choice.overrides[2::2]
        assert len({FACTOR_OF[key.removeprefix("MODEL.ATTENTION.")] for key in keys}) <= 1
        assert (choice.name == "default") == (not keys)
    defaults = [choice for choice in tool.choices() if choice.name == "default"]
    assert [choice.factor for choice in defaults] == list(tool.FACTORS)
    assert len(names) == len(tool.choices()) - len(defaults) + 1


def test_the_default_has_the_values_of_the_config(tool):
    attention = load_config(str(tool.TRAINED), ["MODEL.ATTENTION.CONV", "aa"]).MODEL.ATTENTION
    defaults = {
        choice.factor: choice.value for choice in tool.choices() if len(choice.overrides) == 2
    }
    assert defaults == {
        "value ratio": str(attention.AA.VALUE_RATIO),
        "key ratio": str(attention.AA.KEY_RATIO),
        "heads": str(attention.AA.NUM_HEADS),
        "stages": ", ".join(attention.STAGES),
        "pooled stages": ", ".join(attention.AA.POOL_STAGES),
        "positions": "relative" if attention.AA.RELATIVE and not attention.AA.ABSOLUTE else "other",
    }


def test_train_and_report(tool, tmp_path, monkeypatch, capsys):
    program = tmp_path / "train.py"
    program.write_text(TRAIN)
    monkeypatch.setattr(
        tool,
        "recorded_runs",
        lambda args: Runs(program, "torchvision", args.records, args.work),
    )
    factor = "value ratio"
    kept = {value: tool.FACTORS[factor][value] for value in ("0.0", "0.1", "1.0")}
    monkeypatch.setattr(tool, "FACTORS", {factor: kept})
    folders = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
    assert tool.main(["train", *folders, "--seeds", "1,2"]) == 0
    assert capsys.readouterr().out.startswith("0 of 6 runs are complete")

    costs = {"parameters": 1.5e6, "flops": 2e9, "forward_mb": 7.0}
    costs |= {"forward_ms": 30.0, "plain_forward_ms": 20.0}
    rows = {"machine": {}, "rows": {"default": costs}}
    (tmp_path / "records/cost.json").write_text(json.dumps(rows))
    assert tool.main(["report", *folders, "--seeds", "1,2"]) == 0
    table = (tmp_path / "records/table.md").read_text()
    assert table == capsys.readouterr().out
    assert "| value ratio | 0.0 | 1.0, 2.0 | 1.5 | -10.0, -" in table
    assert "| value ratio | **0.1** | 11.0, 12.0 | 11.5 |  | 1.50 | 2.0 | 30 (1.50) | 7 |" in table
    assert "| value ratio | 1.0 | 101.0, 102.0 | 101.5 | +90.0, +" in table
    assert (tmp_path / "records/sweep.png").stat().st_size > 1000


def test_intervals_over_the_default(tool):
    """Against Dunnett's published table: two choices and a control, 3 seeds each, t = 2.86."""
    seeds = [59.0, 60.0, 61.0]  # a standard deviation of 1
    scores = {"default": seeds, "a": [score - 30 for score in seeds], "b": seeds}
    reach = 2.86 * (2 / 3) ** 0.5
    found = tool.over_default(scores)
    assert list(found) == ["a", "b"]
    for name, middle in (("a", -30), ("b", 0)):
        difference, low, _, high = found[name].replace(",", "").split()
        assert float(difference) == middle
        assert float(low) == pytest.approx(middle - reach, abs=0.06)
        assert float(high) == pytest.approx(middle + reach, abs=0.06)
    assert tool.over_default(scores) == found


@pytest.mark.parametrize(
    "scores",
    [
        {"default": [], "a": [], "b": []},
        {"default": [60.0, 61.0], "a": [], "b": []},
        {"default": [], "a": [60.0, 61.0], "b": [61.0, 62.0]},
        {"default": [60.0], "a": [61.0], "b": []},
    ],
)
def test_too_few_seeds_have_no_interval(tool, scores):
    assert tool.over_default(scores) == {}


def test_cost_of_a_choice(tool, monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH_S", 0.0)
    monkeypatch.setattr(tool, "COSTED", ROOT / "configs/sample/aa_retinanet_R18.yaml")
    by_value = {c.value: c.overrides for c in tool.choices() if c.factor == "value ratio"}
    size = (64, 64)
    plain = tool.counts("torchvision", tool.PLAIN, size)
    none, default, full = (
        tool.counts("torchvision", by_value[value], size) for value in ("0.0", "0.1", "1.0")
    )
    assert none == plain
    assert full["parameters"] < default["parameters"] < plain["parameters"]
    assert full["flops"] < plain["flops"]
    times = tool.latency("torchvision", by_value["0.1"], size, "cpu")
    assert times["plain"]["forward_ms"] > 0 and times["aa"]["forward_ms"] > 0
    assert tool.memory("torchvision", by_value["0.1"], size, "cpu")["forward_mb"] >= 0


def test_broken_costs_are_one_line(tool, tmp_path, capsys):
    (tmp_path / "cost.json").write_text("[]")
    folders = ["--records", str(tmp_path), "--work", str(tmp_path / "work")]
    assert tool.main(["report", "--engine", "torchvision", *folders]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sweep_ratio.py: {tmp_path}/cost.json: not a file of costs")
    assert error.count("\n") == 1
