"""What counts as better, and when enough is enough."""

import math

import pytest

from aa_detection.training.best import BestMetric


def follow(best, *values, start=1):
    return [best.update(i, value) for i, value in enumerate(values, start)]


def test_only_higher_is_better():
    best = BestMetric("bbox/AP", patience=0)
    assert follow(best, 0.0, 0.0, 2.0, 1.0, 3.0) == [True, False, True, False, True]
    assert best.best == 3 and not best.exhausted


def test_patience_counts_evaluations_since_the_best():
    best = BestMetric("bbox/AP", patience=2)
    follow(best, 1.0, 0.5, 2.0, 1.5)
    assert not best.exhausted
    follow(best, 2.0, start=5)
    assert best.exhausted


def test_no_number_is_never_best(caplog):
    best = BestMetric("bbox/APl", patience=1)
    assert follow(best, math.nan) == [False]
    assert best.exhausted and "bbox/APl is not a number" in caplog.text


@pytest.mark.parametrize("ended_after", [1, 2, 3])
def test_a_resumed_run_that_repeats_an_evaluation_counts_it_once(ended_after):
    values = (2.0, 1.0, 1.0, 3.0)
    whole = BestMetric("bbox/AP", patience=5)
    follow(whole, *values)
    ended = BestMetric("bbox/AP", patience=5)
    follow(ended, *values[:ended_after])
    resumed = BestMetric("bbox/AP", patience=5)
    resumed.load_state_dict(ended.state_dict())
    follow(resumed, *values[ended_after - 1 :], start=ended_after)
    assert resumed.state_dict() == whole.state_dict()


def test_an_older_checkpoint_takes_nothing_back():
    best = BestMetric("bbox/AP", patience=5)
    state = best.state_dict()
    follow(best, 2.0)
    best.load_state_dict(state)
    assert best.best == 2
