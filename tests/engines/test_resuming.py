"""With everything on that a trainer has, an ended run goes on as if it had not been ended."""

import os
import signal

import pytest

from aa_detection.training.interrupt import Interrupted

from .conftest import assert_same

# of 6 steps and evaluations after 2 and 4 and at the end
ALL = [
    "SOLVER.MAX_ITER", "6",
    "SOLVER.CHECKPOINT_PERIOD", "3",
    "SOLVER.EMA.DECAY", "0.5",
    "SOLVER.GRAD_ACCUM_STEPS", "2",
    "TEST.EVAL_PERIOD", "2",
    "TEST.BEST_METRIC", "bbox/AP-triangle",
    "TEST.EARLY_STOPPING_PATIENCE", "9",
]  # fmt: skip


# forward passes: two of a step, four of an evaluation
@pytest.mark.parametrize(
    ("count", "training"),
    [(3, True), (6, True), (2, False), (9, True), (10, False)],
    ids=["within a step", "at its end", "in an evaluation", "between evaluations", "at the end"],
)
def test_an_ended_run_is_the_uninterrupted_one(
    engine, run, tmp_path, uninterrupted, at_step, count, training
):
    expected = uninterrupted(engine, *ALL)
    at_step(engine, count, lambda: os.kill(os.getpid(), signal.SIGTERM), training)
    with pytest.raises(Interrupted, match="SIGTERM; --resume goes on from"):
        run(engine, tmp_path, *ALL)
    run(engine, tmp_path, *ALL, resume=True)
    assert_same(tmp_path, expected)
