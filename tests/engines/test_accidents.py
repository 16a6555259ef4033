"""What ends a run before its time: what it says, what it leaves, how it goes on."""

import json
import os
import signal

import pytest
import torch

from aa_detection.training.interrupt import Interrupted

STEPS = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2"]


def result(output_dir):
    """What must be the same however often the run was ended: weights, detections, metrics."""
    weights = torch.load(output_dir / "model_final.pth", weights_only=True)["model"]
    detections = json.loads((output_dir / "inference/coco_instances_results.json").read_text())
    lines = [json.loads(line) for line in (output_dir / "metrics.json").open()]
    for line in lines:
        for timing in ("time", "data_time", "rank_data_time", "eta_seconds"):
            line.pop(timing, None)
    return weights, detections, lines


def assert_same(output_dir, expected):
    torch.testing.assert_close(result(output_dir), expected, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """``uninterrupted(engine, run)``: the result of the run that nothing happens to."""
    results = {}

    def _uninterrupted(engine, run):
        if engine not in results:
            output = tmp_path_factory.mktemp("uninterrupted")
            run(engine, output, *STEPS)
            results[engine] = result(output)
        return results[engine]

    return _uninterrupted


@pytest.fixture
def at_call(monkeypatch):
    """``at_call(object, name, n, act)``: `act` runs before the n-th call of a method, from 1."""

    def _at_call(owner, name, n, act):
        original = getattr(owner, name)
        calls = []

        def wrapped(*args, **kwargs):
            calls.append(1)
            if len(calls) == n:
                act()
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    return _at_call


def send(signum):
    return lambda: os.kill(os.getpid(), signum)


def step_of(engine):
    """The model's class, whose forward is a step of training or an image of an evaluation."""
    if "detectron2" in engine.__name__:
        from detectron2.modeling import RetinaNet
    else:
        from torchvision.models.detection import RetinaNet
    return RetinaNet


@pytest.mark.parametrize(
    ("signum", "call"),
    # two steps, an evaluation of four images, two steps, and the last evaluation
    [(signal.SIGINT, 1), (signal.SIGTERM, 4), (signal.SIGINT, 7), (signal.SIGTERM, 11)],
    ids=["in a step", "in an evaluation", "in a later step", "in the last evaluation"],
)
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on(
    torchvision_engine, run, tmp_path, uninterrupted, at_call, signum, call
):
    engine = torchvision_engine
    expected = uninterrupted(engine, run)
    at_call(step_of(engine), "forward", call, send(signum))
    with pytest.raises(Interrupted, match=f"{signum.name}; --resume goes on from"):
        run(engine, tmp_path, *STEPS)
    run(engine, tmp_path, *STEPS, resume=True)
    assert_same(tmp_path, expected)
