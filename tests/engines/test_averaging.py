"""``SOLVER.EMA.DECAY`` on either engine."""

import json

import pytest
import torch

from aa_detection.config import ConfigError

from .conftest import state_of

DECAY = 0.75
STEPS = ["SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "(2,)", "SOLVER.CHECKPOINT_PERIOD", "1"]
EMA = ["SOLVER.EMA.DECAY", str(DECAY)]


@pytest.fixture
def trained_weights(monkeypatch):
    """``trained_weights(engine)``: a list that a run fills with what training has after a step."""

    def _trained_weights(engine):
        if "detectron2" in engine.__name__:
            from aa_detection.engines.detectron2 import checkpoint as saving

            name = lambda name: name  # noqa: E731
        else:
            from aa_detection.checkpoints.names import detectron2_name as name
            from aa_detection.engines.torchvision import checkpointing as saving

        found = {}

        def record(model, iteration, last_checkpoint):
            state = model.state_dict()
            found[iteration] = {name(key): state[key].clone() for key in state}

        monkeypatch.setattr(saving, "check_weights", record)
        return found

    return _trained_weights


def test_the_average_is_evaluated_and_saved(engine, run, tmp_path, trained_weights):
    plain = trained_weights(engine)
    run(engine, tmp_path / "plain", *STEPS, "DATASETS.TEST", "()")
    weights = trained_weights(engine)
    metrics = run(engine, tmp_path / "ema", *STEPS, *EMA)
    assert sorted(weights) == [0, 1, 2]
    torch.testing.assert_close(weights, plain, rtol=0, atol=0)  # training is what it was
    saved = torch.load(tmp_path / "ema/model_final.pth", weights_only=True)["model"]
    floats = [name for name in saved if saved[name].is_floating_point()]
    expected = {name: weights[0][name] for name in floats}
    for step in (1, 2):
        for name in floats:
            expected[name] = DECAY * expected[name] + (1 - DECAY) * weights[step][name]
    torch.testing.assert_close({name: saved[name] for name in floats}, expected)
    name = "head.cls_score.weight"
    assert not torch.allclose(saved[name], weights[2][name], rtol=1e-3)
    # what was evaluated is what was saved
    found = (tmp_path / "ema/inference/coco_instances_results.json").read_text()
    final = str(tmp_path / "ema/model_final.pth")
    again = run(engine, tmp_path / "again", "MODEL.WEIGHTS", final, eval_only=True)
    assert (tmp_path / "again/inference/coco_instances_results.json").read_text() == found
    torch.testing.assert_close(again["bbox"], metrics["bbox"], rtol=0, atol=0, equal_nan=True)
    assert len(json.loads(found)) > 40


def test_a_finished_run_that_is_resumed_keeps_its_average(engine, run, tmp_path):
    run(engine, tmp_path, *STEPS, *EMA, "DATASETS.TEST", "()")
    before = state_of(tmp_path)
    run(engine, tmp_path, *STEPS, *EMA, "DATASETS.TEST", "()", resume=True)
    torch.testing.assert_close(state_of(tmp_path), before, rtol=0, atol=0)


@pytest.mark.parametrize(("before", "after"), [(EMA, []), ([], EMA)], ids=["lost", "added"])
def test_a_run_does_not_go_on_with_or_without_an_average_it_had(
    engine, run, tmp_path, before, after
):
    run(engine, tmp_path, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", *before)
    with pytest.raises(ConfigError, match=r"^--resume: .* average .* SOLVER.EMA.DECAY is"):
        run(engine, tmp_path, "SOLVER.MAX_ITER", "2", *after, resume=True)
