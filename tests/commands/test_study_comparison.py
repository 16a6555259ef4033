"""What the comparison promises, simulated; docs/comparison has more simulations."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = {"images": 12, "classes": 2, "per_image": 5, "resamples": 100}


@pytest.fixture
def study(load_tool):
    return load_tool("study_comparison")


def test_the_page(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "SMALL", TINY)
    monkeypatch.setattr(study, "LARGE", TINY)
    for name in ("training", "images", "power", "power"):
        assert study.main([name, "--simulations", "2", "--output", str(tmp_path)]) == 0
    studies = json.loads((tmp_path / "study.json").read_text())
    assert [len(studies[name]) for name in ("training", "images", "power")] == [10, 2, 4]
    page = (tmp_path / "study.txt").read_text()
    assert page in capsys.readouterr().out
    assert (
        "5 runs an arm, ours" in page and "of 2 simulations" in page and "of 4 simulations" in page
    )


def test_simulations_differ_and_repeat(study):
    first, again, other = (study.simulate_ap(number, 2, **TINY) for number in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    values = [arm[run, 0] for arms in (first, other) for arm in arms for run in range(2)]
    assert len(set(values)) == 8


@pytest.mark.slow
def test_equal_detectors_are_told_apart_in_one_of_twenty(study):
    rows = list(study.study_images(120, []))
    # 0.95 of 120 is 114; fewer than 105 or all of 120 have a probability below 0.003 each
    assert 105 <= sum(row["low"] <= 0 <= row["high"] for row in rows) <= 119


@pytest.mark.slow
@pytest.mark.parametrize("runs", [2, 3])
def test_so_are_equal_methods_whose_runs_differ(study, runs):
    arms = [study.simulate_ap(n, runs, training_noise=0.05, **study.SMALL) for n in range(60)]
    # 0.95 of 60 is 57; fewer than 50 has a probability below 0.001
    assert study.no_difference(arms, runs, study.ours)["share"] * 60 >= 50
    # and it is the training noise that asks for it
    assert study.no_difference(arms, runs, study.images_alone)["share"] < 0.85


@pytest.mark.slow
def test_one_ap_on_5000_images_is_found(study):
    rows = list(study.study_power(3, []))
    assert np.mean([row["difference"] for row in rows]) == pytest.approx(1, abs=0.5)
    assert all(row["detectable"] < 1 and row["low"] > 0 for row in rows)
