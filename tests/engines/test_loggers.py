"""``LOGGERS``: where metrics go beside ``metrics.json`` and TensorBoard."""

import csv
import importlib.util
import json
import math
import os
import signal

import pytest

from aa_detection.config import ConfigError
from aa_detection.training.interrupt import Interrupted

STEPS = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2"]
TIMINGS = ("time", "data_time", "eta_seconds")


def read_csv(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(row[key]) for key in row if row[key] not in ("", "nan")} for row in rows]


def read_json(path):
    rows = [json.loads(line) for line in open(path, encoding="utf-8")]
    for row in rows:
        row["step"] = row.pop("iteration")
    return [{key: row[key] for key in row if row[key] is not None} for row in rows]


def untimed(rows):
    return [{key: row[key] for key in row if key not in TIMINGS} for row in rows]


def test_csv_has_what_the_json_has(torchvision_engine, run, tmp_path):
    run(torchvision_engine, tmp_path, *STEPS, "LOGGERS", "['csv']")
    rows = read_csv(tmp_path / "metrics.csv")
    assert rows == read_json(tmp_path / "metrics.json")
    assert any("bbox/AP" in row for row in rows) and any("total_loss" in row for row in rows)


def test_csv_of_a_resumed_run_is_the_uninterrupted_ones(torchvision_engine, run, tmp_path, at_step):
    run(torchvision_engine, tmp_path / "whole", *STEPS, "LOGGERS", "['csv']")
    keys = [*STEPS, "LOGGERS", "['csv']"]
    at_step(torchvision_engine, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(torchvision_engine, tmp_path / "ended", *keys)
    run(torchvision_engine, tmp_path / "ended", *keys, resume=True)
    whole = untimed(read_csv(tmp_path / "whole/metrics.csv"))
    assert untimed(read_csv(tmp_path / "ended/metrics.csv")) == whole


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_that_is_not_installed_is_refused(
    torchvision_engine, run, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module, *how: None)
    with pytest.raises(ConfigError, match=f"^LOGGERS {name}: .* pip install {name}$"):
        run(torchvision_engine, tmp_path / "run", "LOGGERS", f"['{name}']")
    assert not (tmp_path / "run").exists()


def test_detectron2_refuses_loggers_by_name(detectron2_engine, run, tmp_path):
    with pytest.raises(ConfigError, match="^LOGGERS csv, wandb: .* --engine torchvision"):
        run(detectron2_engine, tmp_path / "run", "LOGGERS", "['csv', 'wandb']")
    assert not (tmp_path / "run").exists()


def test_mlflow_has_one_run_of_a_resumed_training(
    torchvision_engine, run, tmp_path, monkeypatch, at_step
):
    tracking = pytest.importorskip("mlflow", reason="mlflow is not installed").tracking
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a run"
    keys = [*STEPS, "LOGGERS", "['mlflow']"]
    at_step(torchvision_engine, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(torchvision_engine, folder, *keys)
    run(torchvision_engine, folder, *keys, resume=True)
    client = tracking.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'aa_detection'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "a run"
    assert found.data.params["SOLVER/MAX_ITER"] == "4"
    history = client.get_metric_history(found.info.run_id, "total_loss")
    expected = [row for row in read_json(folder / "metrics.json") if "total_loss" in row]
    assert [(m.step, m.value) for m in history] == [
        (row["step"], row["total_loss"]) for row in expected
    ]
    assert math.isfinite(history[0].value)


def test_wandb_takes_a_run_offline(torchvision_engine, run, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("first", "second"):  # in one process
        run(torchvision_engine, tmp_path / name, "SOLVER.MAX_ITER", "1", "LOGGERS", "['wandb']")
        (folder,) = (tmp_path / name / "wandb").glob("offline-run-*")
        ident = json.loads((tmp_path / name / "loggers.json").read_text())["wandb"]
        assert list(folder.glob(f"run-{ident}.wandb"))


def test_a_service_that_refuses_is_one_line(torchvision_engine, run, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")

    def refuse(**how):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match="^LOGGERS wandb: cannot start: No API key configured.$"):
        run(torchvision_engine, tmp_path, "SOLVER.MAX_ITER", "1", "LOGGERS", "['wandb']")
    assert not list(tmp_path.glob("checkpoints/*"))
