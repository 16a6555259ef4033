"""Runs of an experiment, with a program in place of the training that takes no time."""

import fcntl
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from aa_detection.config import ConfigError
from aa_detection.studies import runs as module
from aa_detection.studies.runs import Run, Runs
from aa_detection.training.interrupt import Interrupted

TRAIN = """
import json, os, sys
from pathlib import Path

words = dict(zip(sys.argv[1:], sys.argv[2:]))
output = Path(words["OUTPUT_DIR"])
with open(output / "calls.txt", "a") as file:
    print(os.environ.get("ROOT"), *sys.argv[1:], file=file)
(output / "checkpoints").mkdir(exist_ok=True)
(output / "checkpoints" / "iteration_1.ckpt").touch()
if words["SEED"] == "13" and not (output / "once").exists():
    (output / "once").touch()
    sys.exit(9)
(output / "config.yaml").write_text("MODEL: {DEVICE: cpu}")
score = float(words["SEED"]) or None
rows = [{"bbox/AP": 1.0}, {"total_loss": 1.0}, {"bbox/AP": score, "bbox/APl": None}]
(output / "metrics.json").write_text("".join(json.dumps(row) + "\\n" for row in rows))
(output / "inference").mkdir(exist_ok=True)
found = [{"image_id": 1, "category_id": 1, "bbox": [0.123, 1, 2, 3], "score": 0.123456789}]
(output / "inference" / "coco_instances_results.json").write_text(json.dumps(found))
"""

# a training in that it takes a moment to leave a checkpoint, and that it minds a second signal
SLEEPER = """
import signal, sys, time
from pathlib import Path

def end(signum, frame):
    told = Path(__file__).with_name("told")
    told.write_text("twice" if told.exists() else "once")
    time.sleep(0.5)
    sys.exit(128 + signum)

for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, end)
Path(__file__).with_name("started").touch()
time.sleep(60)
"""


def program_of(runs):
    return Path(runs.train[0])


@pytest.fixture
def runs(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(TRAIN)
    return Runs([str(program)], "torchvision", tmp_path / "records", tmp_path / "work")


@pytest.fixture
def plan(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("SOLVER: {MAX_ITER: 3}\nMODEL: {DEVICE: cuda}\n")

    def _plan(*seeds, **settings):
        words = tuple(word for item in settings.items() for word in item)
        return [
            Run(
                f"arm/seed{seed}",
                config,
                (*words, "SEED", str(seed)),
                labels={"arm": "aa", "seed": seed},
                environment={"ROOT": "there"},
            )
            for seed in seeds
        ]

    return _plan


def calls(runs, run):
    return (runs.work / run.name / "calls.txt").read_text().splitlines()


def complete(runs, plan, jobs=1):
    said = []
    failed = runs.complete(plan, jobs=jobs, report=said.append)
    return failed, said


def test_a_run_leaves_its_numbers_and_detections(runs, plan):
    (run,) = plan(7)
    assert runs.record(run) is None
    failed, said = complete(runs, [run])
    assert not failed
    assert said[0] == "0 of 1 runs are complete"
    assert said[-1].startswith("arm/seed7: AP 7.00 after")
    record = runs.record(run)
    assert record["metrics"] == {"AP": 7.0, "APl": None}
    assert (record["arm"], record["seed"], record["engine"]) == ("aa", 7, "torchvision")
    assert record["settings"] == {"SEED": 7, "SOLVER.MAX_ITER": 3}  # the device is no setting
    assert record["resumed"] is False
    assert record["seconds"] >= 0 and record["threads"] >= 1
    assert record["versions"]["torch"]
    assert "commit" in record
    assert runs.detections(run) == [
        {"image_id": 1, "category_id": 1, "bbox": [0.12, 1, 2, 3], "score": 0.12346}
    ]
    (call,) = calls(runs, run)
    assert call.startswith("there --config-file")
    assert "--engine torchvision --resume SEED 7 OUTPUT_DIR" in call


def test_nothing_annotated(runs, plan):
    (run,) = plan(0)
    failed, said = complete(runs, [run])
    assert not failed
    assert said[-1].startswith("arm/seed0: AP none after")
    assert runs.record(run)["metrics"]["AP"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("tracked", [True, False])
def test_the_commit_is_the_packages(tracked, runs, plan, tmp_path, monkeypatch):
    """An installed one may stand in a repository, such as the user's, that does not hold it."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@here"]
    for name in ("runs.py", "other.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "runs.py"))
    for words in (
        ["init", "--quiet"],
        ["add", "runs.py" if tracked else "other.txt"],
        ["commit", "--quiet", "--message", "first"],
    ):
        subprocess.run([*git, *words], check=True)
    (run,) = plan(7)
    complete(runs, [run])
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert runs.record(run)["commit"] == (head.strip() if tracked else None)


def test_what_is_complete_is_not_run_again(runs, plan):
    complete(runs, plan(1))
    before = (runs.records / "arm/seed1.json").stat().st_mtime_ns
    failed, said = complete(runs, plan(1, 2))
    assert not failed and said[0] == "1 of 2 runs are complete"
    assert (runs.records / "arm/seed1.json").stat().st_mtime_ns == before
    assert len(calls(runs, plan(1)[0])) == 1


def test_a_run_that_dies_loses_itself_only_and_goes_on_the_next_time(runs, plan):
    order = plan(1, 13, 2)
    failed, said = complete(runs, order, jobs=2)
    assert failed == [order[1]]
    assert f"arm/seed13: failed, see {runs.work / 'arm/seed13/output.txt'}" in said
    assert runs.record(order[1]) is None
    assert complete(runs, order)[0] == []
    assert runs.record(order[1])["resumed"] is True
    assert len(calls(runs, order[0])) == 1 and len(calls(runs, order[1])) == 2


def test_a_run_that_evaluates_nothing_has_failed(runs, plan):
    program_of(runs).write_text("")
    assert complete(runs, plan(1))[0] == plan(1)
    assert not runs.records.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SOLVER.MAX_ITER": "4"}, "another SOLVER.MAX_ITER, 3 and not 4"),
        ({"SOLVER.BASE_LR": "0.1"}, "another SOLVER.BASE_LR, null and not 0.1"),
    ],
)
def test_a_record_of_other_settings_is_refused(runs, plan, change, message):
    complete(runs, plan(1))
    with pytest.raises(ConfigError) as error:
        complete(runs, plan(1, **change))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_unfinished_run_of_other_settings_is_not_continued(runs, plan):
    failed, _ = complete(runs, plan(13))
    assert failed
    with pytest.raises(ConfigError) as error:
        complete(runs, plan(13, **{"SOLVER.MAX_ITER": "4"}))
    folder = runs.work / "arm" / "seed13"
    assert str(error.value).startswith(
        f"{folder}: an unfinished run with another SOLVER.MAX_ITER, 3 and not 4"
    )
    assert complete(runs, plan(13))[0] == []


def test_a_record_of_the_other_engine_is_refused(runs, plan):
    complete(runs, plan(1))
    other = Runs(runs.train, "detectron2", runs.records, runs.work)
    with pytest.raises(ConfigError, match='engine, "torchvision" and not "detectron2"'):
        other.record(plan(1)[0])


def test_a_broken_record_is_one_line(runs, plan):
    (run,) = plan(1)
    path = runs.records / "arm/seed1.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not a record of a run"):
        runs.record(run)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="another arm"):
        runs.record(run)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_processes(runs, plan, signum):
    program_of(runs).write_text(SLEEPER)
    started, told = (program_of(runs).with_name(name) for name in ("started", "told"))

    def interrupt():
        while not started.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signum)

    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(Interrupted, match=signum.name):
        complete(runs, plan(1, 2))
    assert time.monotonic() - start < 30  # the process did not sleep on
    assert told.read_text() == "once"
    assert not runs.records.exists()
    assert not (runs.work / "arm/seed2").exists()


def test_a_signal_while_a_process_starts_ends_it(runs, plan, monkeypatch):
    program_of(runs).write_text(SLEEPER)
    start_process = subprocess.Popen

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)  # the main thread has it, and tells what runs
        return start_process(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", signalled)
    start = time.monotonic()
    with pytest.raises(Interrupted):
        complete(runs, plan(1, 2))
    assert time.monotonic() - start < 30  # the process did not sleep on
    assert not (runs.work / "arm/seed2").exists()


def test_a_folder_that_another_command_works_in_is_refused(runs, plan):
    runs.work.mkdir()
    with open(runs.work / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="work: another command makes its runs there"):
            complete(runs, plan(1))
    assert not runs.records.exists()
    assert complete(runs, plan(1))[0] == []


def test_environment_decides_the_threads(runs, plan, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    complete(runs, plan(1))
    assert runs.record(plan(1)[0])["threads"] == 3
