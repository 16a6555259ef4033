"""``TEST.BEST_METRIC`` and ``TEST.EARLY_STOPPING_PATIENCE`` on either engine."""

import json

import pytest
import torch

from aa_detection.checkpoints import read_about, read_checkpoint
from aa_detection.config import ConfigError

from .conftest import state_of

EVERY_2 = ["SOLVER.MAX_ITER", "6", "TEST.EVAL_PERIOD", "2", "TEST.BEST_METRIC", "bbox/AP"]
STOP = [
    "SOLVER.MAX_ITER", "20", "TEST.EVAL_PERIOD", "1", "TEST.BEST_METRIC", "bbox/AP",
    "TEST.EARLY_STOPPING_PATIENCE", "2",
]  # fmt: skip


def detections(folder):
    return json.loads((folder / "inference/coco_instances_results.json").read_text())


def evaluations(folder):
    rows = [json.loads(line) for line in (folder / "metrics.json").open()]
    return [row["bbox/AP"] for row in rows if "bbox/AP" in row]


@pytest.fixture
def score(monkeypatch):
    """``score(engine, folder, *APs)``: what the evaluations find; the list of their detections."""

    def _score(engine, folder, *values):
        found = []

        def next_value():
            found.append(detections(folder))
            return values[len(found) - 1]

        if "detectron2" in engine.__name__:
            from aa_detection.engines.detectron2.trainer import WholeResults

            original = WholeResults.evaluate

            def evaluate(self, *args, **kwargs):
                results = original(self, *args, **kwargs)
                results["bbox"]["AP"] = next_value()
                return results

            monkeypatch.setattr(WholeResults, "evaluate", evaluate)
        else:
            from aa_detection.engines.torchvision import module

            original = module.coco_ap
            scored = lambda *args: {**original(*args), "AP": next_value()}  # noqa: E731
            monkeypatch.setattr(module, "coco_ap", scored)
        return found

    return _score


@pytest.mark.parametrize("values", [(1.0, 3.0, 2.0), (1.0, 2.0, 3.0)], ids=["middle", "last"])
def test_the_best_weights_are_kept(engine, run, tmp_path, score, monkeypatch, values):
    found = score(engine, tmp_path / "a", *values)
    run(engine, tmp_path / "a", *EVERY_2)
    best = values.index(3.0)
    checkpoint = read_checkpoint(str(tmp_path / "a/model_best.pth"))
    assert checkpoint.iteration == 2 * (best + 1)
    about = read_about(checkpoint)
    assert "circle" in about.categories.values() and "BEST_METRIC: bbox/AP" in about.config
    # it names its config, which names the network
    monkeypatch.undo()
    run(engine, tmp_path / "b", "MODEL.WEIGHTS", checkpoint.path, eval_only=True)
    assert detections(tmp_path / "b") == found[best] != found[0]
    final = torch.load(tmp_path / "a/model_final.pth", weights_only=True)["model"]
    same = all(torch.equal(final[name], checkpoint.weights[name]) for name in final)
    assert same == (best == 2)


def test_a_run_that_gets_no_better_ends(engine, run, tmp_path, score):
    values = (1.0, 2.0, 2.0, 1.0)
    score(engine, tmp_path, *values, 9.0)
    metrics = run(engine, tmp_path, *STOP)
    assert evaluations(tmp_path) == list(values) and metrics["bbox"]["AP"] == values[-1]
    last = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert last["iteration"] == 3
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 1
    log = (tmp_path / "log.txt").read_text()
    assert log.count("training ends: 2 evaluations have not raised bbox/AP above 2.000") == 1
    assert "Traceback" not in log


def test_a_run_that_has_ended_is_not_trained_on(engine, run, tmp_path, score, monkeypatch):
    score(engine, tmp_path, 2.0, 1.0, 1.0, 1.0)
    run(engine, tmp_path, *STOP)
    before = state_of(tmp_path)
    assert run(engine, tmp_path, *STOP, resume=True)["bbox"]["AP"] == 1.0
    torch.testing.assert_close(state_of(tmp_path), before, rtol=0, atol=0)
    assert evaluations(tmp_path) == [2.0, 1.0, 1.0]
    # unless it is told to wait longer
    monkeypatch.undo()
    score(engine, tmp_path, 1.0, 3.0, 4.0)
    more = [*STOP, "TEST.EARLY_STOPPING_PATIENCE", "4", "SOLVER.MAX_ITER", "5"]
    run(engine, tmp_path, *more, resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["TEST.EARLY_STOPPING_PATIENCE", "2"], "TEST.EARLY_STOPPING_PATIENCE 2 needs a TEST.BEST"),
        (["TEST.BEST_METRIC", "bbox/AP"], "TEST.BEST_METRIC bbox/AP needs a TEST.EVAL_PERIOD"),
        ([*EVERY_2, "DATASETS.TEST", "()"], "TEST.BEST_METRIC bbox/AP needs a dataset in DATASETS"),
        ([*EVERY_2, "TEST.BEST_METRIC", "AP"], "TEST.BEST_METRIC 'AP' is no metric of DATASETS"),
        ([*EVERY_2, "TEST.BEST_METRIC", "bbox/AP-cow"], "TEST.BEST_METRIC 'bbox/AP-cow' is no"),
        (["SOLVER.GRAD_ACCUM_STEPS", "3"], "SOLVER.GRAD_ACCUM_STEPS 3 must divide the 2 images"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    engine, run, tmp_path, overrides, message
):
    with pytest.raises(ConfigError, match=f"^{message}") as refused:
        run(engine, tmp_path / "run", *overrides)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()
