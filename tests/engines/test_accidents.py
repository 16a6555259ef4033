"""What ends a run before its time: what it says, what it leaves, how it goes on."""

import multiprocessing
import os
import re
import resource
import signal
from functools import partial

import pytest
import torch

from aa_detection.config import ConfigError
from aa_detection.training.failures import RunError
from aa_detection.training.interrupt import Interrupted

from .conftest import assert_same

STEPS = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2"]


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.parametrize(
    ("signum", "step", "training"),
    [
        (signal.SIGINT, 1, True),
        (signal.SIGTERM, 2, False),
        (signal.SIGTERM, 4, True),
        (signal.SIGHUP, 2, True),
    ],
    ids=["in a step", "in an evaluation", "in the last step", "without a terminal"],
)
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on(
    engine, run, tmp_path, uninterrupted, at_step, signum, step, training
):
    expected = uninterrupted(engine, *STEPS)
    at_step(engine, step, lambda: os.kill(os.getpid(), signum), training)
    with pytest.raises(Interrupted, match=f"{signum.name}; --resume goes on from"):
        run(engine, tmp_path, *STEPS)
    run(engine, tmp_path, *STEPS, resume=True)
    assert_same(tmp_path, expected)


def test_a_loss_that_diverges_names_iteration_and_images(engine, run, tmp_path):
    with pytest.raises(RunError, match=r"^iteration [12]: the loss is not finite") as caught:
        run(engine, tmp_path, "SOLVER.BASE_LR", "1e6", "SOLVER.WARMUP_ITERS", "0")
    assert re.search(r"images of the batch: \d+, \d+; no checkpoint was written", str(caught.value))
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("*.pth"))


def test_out_of_memory_names_two_keys(engine, run, tmp_path, at_step):
    def exhaust():
        raise torch.OutOfMemoryError("CUDA out of memory")

    at_step(engine, 3, exhaust)
    with pytest.raises(RunError, match="^out of memory: lower ") as caught:
        run(engine, tmp_path, *STEPS)
    line = str(caught.value)
    assert "SOLVER.IMS_PER_BATCH (2) or INPUT.MIN_SIZE_TRAIN ((64,))" in line
    assert "--resume goes on from" in line


def test_a_full_disk_leaves_the_earlier_checkpoint(engine, run, tmp_path, uninterrupted, at_step):
    expected = uninterrupted(engine, *STEPS)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    restore = partial(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
    fill = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000_000, limit[1]))
    at_step(engine, 3, fill)
    with pytest.raises(RunError, match=r"(ckpt|pth): File too large; --resume goes on from"):
        try:
            run(engine, tmp_path, *STEPS)
        finally:
            restore()
    run(engine, tmp_path, *STEPS, resume=True)
    assert_same(tmp_path, expected)


# the DataLoader learns of it from the signal or, on a busy machine, from the silence
WORKER_DIED = r"^data worker \d+ (was killed \(Killed\)|exited), .*NUM_WORKERS"


def test_a_data_worker_that_dies_ends_the_run(engine, run, tmp_path, at_step):
    def kill_worker():
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)

    at_step(engine, 1, kill_worker)
    steps = ["SOLVER.MAX_ITER", "20", "DATALOADER.NUM_WORKERS", "1"]
    with pytest.raises(RunError, match=WORKER_DIED):
        run(engine, tmp_path, *steps)


def test_a_folder_that_cannot_be_written_to_is_refused_first(engine, run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="OUTPUT_DIR .*file/run: cannot write there"):
        run(engine, tmp_path / "file/run")


def test_a_damaged_or_missing_checkpoint_is_refused(engine, run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/iteration_0000002.ckpt").write_bytes(b"PK\3\4 no more")
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(ConfigError, match="--resume: .*(damaged|not there)"):
        run(engine, tmp_path, resume=True)


def test_a_fresh_run_takes_the_place_of_an_earlier_ones_checkpoints(
    torchvision_engine, run, tmp_path
):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/iteration_0000900.ckpt").touch()
    run(torchvision_engine, tmp_path, "SOLVER.MAX_ITER", "1")
    assert os.listdir(tmp_path / "checkpoints") == ["iteration_0000001.ckpt"]
