"""The study of attention's choices, with a program in place of the training and a small image."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from aa_detection.engines.torchvision.config import load_config
from aa_detection.studies import timing
from aa_detection.studies.runs import Runs

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
    files = [tool.COSTED, *(task.config_file for task in tool.TASKS)]
    for choice in tool.choices():
        for file in files:
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
    defaults = {
        choice.factor: choice.value for choice in tool.choices() if len(choice.overrides) == 2
    }
    for file in (tool.COSTED, *(task.config_file for task in tool.TASKS)):
        attention = load_config(str(file), ["MODEL.ATTENTION.CONV", "aa"]).MODEL.ATTENTION
        assert defaults == values_of(attention)


def values_of(attention):
    return {
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
        lambda args: Runs([str(program)], "torchvision", args.records, args.work),
    )
    ratios = {value: tool.FACTORS["value ratio"][value] for value in ("0.0", "0.1", "1.0")}
    heads = {value: tool.FACTORS["heads"][value] for value in ("1", "8")}
    monkeypatch.setattr(tool, "FACTORS", {"value ratio": ratios, "heads": heads})
    context, sample = tool.TASKS
    tasks = (dataclasses.replace(context, factors=("value ratio", "heads")), sample)
    monkeypatch.setattr(tool, "TASKS", tasks)
    folders = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
    assert tool.main(["train", *folders, "--seeds", "1,2"]) == 0
    said = capsys.readouterr().out.splitlines()
    # four choices on one dataset, of which the default is one of both factors, and three on another
    assert said[0] == "0 of 14 runs are complete"
    starts = [line.split(":")[0] for line in said if line.endswith(": starts")]
    assert starts[:7] == [
        *(f"context/{name}-seed1" for name in ("value-ratio-0.0", "default", "value-ratio-1.0")),
        "context/heads-1-seed1",
        *(f"sample/{name}-seed1" for name in ("value-ratio-0.0", "default", "value-ratio-1.0")),
    ]

    costs = {"parameters": 1.5e6, "flops": 2e9, "forward_mb": 7.0}
    costs |= {"forward_ms": 30.0, "plain_forward_ms": 20.0}
    rows = {"machine": {}, "rows": {"default": costs}}
    (tmp_path / "records/cost.json").write_text(json.dumps(rows))
    assert tool.main(["report", *folders, "--seeds", "1,2"]) == 0
    table = (tmp_path / "records/table.md").read_text()
    assert table == capsys.readouterr().out
    rows = {tuple(row[:2]): row[2:] for row in map(cells, table.splitlines())}
    mean, over, *other_task = rows["value ratio", "0.0"]
    assert mean == "1.5 (0.7)" and over.startswith("-10.0, -")
    # the program's scores ask for no dataset
    assert other_task[0] == mean and other_task[1].startswith("-10.0, -")
    default = ["11.5 (0.7)", "", "11.5 (0.7)", "", "1.50", "2.0", "30 (1.50)", "7"]
    assert rows["value ratio", "**0.1**"] == default
    assert rows["value ratio", "1.0"][1].startswith("+90.0, +")
    assert rows["heads", "1"][2:] == [""] * 6  # not on the other task, and not measured
    assert rows["heads", "**8**"] == ["11.5 (0.7)", "", "", "", *default[4:]]
    assert (tmp_path / "records/sweep.png").stat().st_size > 1000


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


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
    assert tool.memory("torchvision", by_value["0.1"], size, "cpu") >= 0


def test_broken_costs_are_one_line(tool, tmp_path, capsys):
    (tmp_path / "cost.json").write_text("[]")
    folders = ["--records", str(tmp_path), "--work", str(tmp_path / "work")]
    assert tool.main(["report", "--engine", "torchvision", *folders]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sweep_ratio.py: {tmp_path}/cost.json: not a file of costs")
    assert error.count("\n") == 1


def test_the_table_of_docs_is_of_its_records(tool, tmp_path, monkeypatch):
    records = ROOT / "docs/sweep"
    for file in records.rglob("*.json"):
        copy = tmp_path / "records" / file.relative_to(records)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    monkeypatch.setattr(tool, "NUM_TRAIN", 1500)
    monkeypatch.setattr(tool, "NUM_VAL", 300)
    folders = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
    assert tool.main(["report", "--engine", "torchvision", *folders]) == 0
    kept = (records / "table.md").read_text()
    words, numbers = apart((tmp_path / "records/table.md").read_text())
    kept_words, kept_numbers = apart(kept)
    assert words == kept_words
    # Dunnett's bounds are integrated at random, by each version of SciPy in its own way
    assert numbers == pytest.approx(kept_numbers, abs=0.15)
    assert kept.strip() in (records / "README.md").read_text(encoding="utf-8")


def apart(text):
    """What is no number, and the numbers."""
    number = r"[-+]?\d+(?:\.\d+)?"
    return re.sub(number, "#", text), [float(found) for found in re.findall(number, text)]
