"""OUTPUT_DIR is one run's: what is there is kept until a run is known to be good, and alone."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections import OrderedDict

import pytest
import torch

from aa_detection.config import ConfigError
from aa_detection.data import DatasetError
from aa_detection.training.files import alone_in


def everything(folder):
    """Content and time of change of every file, the lock's aside."""
    paths = sorted(path for path in folder.rglob("*") if path.name != ".lock")
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in paths
    }


@pytest.fixture
def finished(trained, engine, tmp_path):
    """A folder that holds a finished run, to be changed."""
    return shutil.copytree(trained(engine)[0], tmp_path / "a run")


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["MODEL.ATTENTION.AA.NUM_HEADS", "4096"], {}, "MODEL.ATTENTION.AA"),
        (["MODEL.WEIGHTS", "missing.pth"], {}, "MODEL.WEIGHTS missing.pth"),
        (["DATASETS.TRAIN", "('aa_sample_trane',)"], {}, "unknown dataset"),
        (
            ["SOLVER.BASE_LR", "0.0123"],
            {},
            r"finished run of another .*\(SOLVER.BASE_LR: .* 0.0123",
        ),
        (["MODEL.WEIGHTS", "{run}/model_final.pth"], {}, "OUTPUT_DIR .* is also MODEL.WEIGHTS"),
        (["MODEL.ATTENTION.CONV", "aw"], {"resume": True}, "^--resume: .* of another config"),
        (["MODEL.RETINANET.NUM_CONVS", "2"], {"resume": True}, "^--resume: .* of another config"),
        (["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FPN.NORM", ""], {"resume": True}, "^--resume: "),
    ],
)
def test_a_wrong_command_leaves_a_finished_run_as_it_was(
    engine, run, finished, overrides, options, message
):
    before = everything(finished)
    overrides = [word.format(run=finished) for word in overrides]
    with pytest.raises((ConfigError, DatasetError), match=message) as refused:
        run(engine, finished, *overrides, **options)
    assert "\n" not in str(refused.value)
    assert everything(finished) == before


def test_a_wrong_command_makes_no_folder(engine, run, tmp_path):
    with pytest.raises(ConfigError):
        run(engine, tmp_path / "run", "MODEL.ATTENTION.AA.NUM_HEADS", "4096")
    assert not (tmp_path / "run").exists()


def test_the_same_run_may_be_made_again(engine, run, finished):
    # how it is made is not what it is
    run(engine, finished, "SOLVER.CHECKPOINT_PERIOD", "50")


def test_a_run_goes_on_longer(engine, run, finished):
    run(engine, finished, "SOLVER.MAX_ITER", "5", resume=True)
    rows = (finished / "metrics.json").read_text().splitlines()
    assert '"iteration": 4' in rows[-1] or '"iteration": 5' in rows[-1]


# ---- one run at a time ---------------------------------------------------------------------------

HOLD = """
    import sys
    from aa_detection.training.files import alone_in
    with alone_in(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has ``run`` to itself."""
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("options", [{}, {"resume": True}], ids=["anew", "resumed"])
def test_a_second_run_in_a_folder_is_refused(engine, run, tmp_path, holder, options):
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match=f"OUTPUT_DIR .*run: process {holder.pid} trains"):
        run(engine, tmp_path / "run", **options)
    assert everything(tmp_path) == before
    holder.kill()  # as abruptly as it gets
    holder.wait()
    run(engine, tmp_path / "run", "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", **options)


def test_a_data_worker_that_outlives_its_run_holds_nothing(tmp_path):
    with alone_in(tmp_path):
        if (child := os.fork()) == 0:
            os.read(0, 0)
            os.execvp("sleep", ["sleep", "60"])
    try:
        with alone_in(tmp_path):
            assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


# ---- checkpoints to go on from -------------------------------------------------------------------


class Hostile:
    """Names a function to call, as any pickle may."""

    def __reduce__(self):
        return os.system, ("touch was-run",)


def newest(folder):
    tag = folder / "last_checkpoint"
    return folder / tag.read_text() if tag.exists() else next(folder.glob("checkpoints/*.ckpt"))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def cut_to_half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path):
    path.write_bytes(b"")


def hostile(path):
    torch.save({"model": {"w": torch.ones(1)}, "state_dict": Hostile()}, path)


def without_state(path):
    content = torch.load(path, weights_only=True)
    key = "model" if "model" in content else "state_dict"
    torch.save({key: content[key], "iteration": 3}, path)


def a_list(path):
    torch.save([torch.ones(3)], path)


def text(path):
    path.write_text("no checkpoint")


def another_optimizer(path):
    content = torch.load(path, weights_only=True)
    at = content["trainer"]["_trainer"]["optimizer"] if "trainer" in content else None
    groups = (at or content["optimizer_states"][0])["param_groups"]
    groups.append(OrderedDict(groups[0]))
    torch.save(content, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "damaged, or not a file of tensors"),
        (cut_to_half, "damaged, or not a file of tensors"),
        (empty, "the file is empty"),
        (hostile, r"it asks for \w+\.system, and only tensors are read; nothing in it was run"),
        (without_state, "is no checkpoint that a training of this engine wrote"),
        (a_list, "expected tensors by name, got list"),
        (text, "damaged, or not a file of tensors"),
        (another_optimizer, "is of another configuration of SOLVER or MODEL"),
    ],
)
def test_a_checkpoint_to_go_on_from_is_looked_at_first(
    engine, run, finished, monkeypatch, damage, message
):
    monkeypatch.chdir(finished)
    path = newest(finished)
    damage(path)
    before = everything(finished)
    with pytest.raises(ConfigError, match=message) as refused:
        run(engine, finished, "SOLVER.MAX_ITER", "5", resume=True)
    line = str(refused.value)
    assert re.match(rf"--resume: {re.escape(str(path))}", line) and "\n" not in line
    assert "weights_only" not in line
    assert everything(finished) == before  # nor is "was-run" there


def test_a_foreign_file_among_the_checkpoints_is_left_alone(torchvision_engine, run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/iteration_best.ckpt").write_text("mine")
    run(torchvision_engine, tmp_path, "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", resume=True)
    assert (tmp_path / "checkpoints/iteration_best.ckpt").read_text() == "mine"


def test_a_name_of_a_checkpoint_that_is_none(detectron2_engine, run, tmp_path):
    (tmp_path / "last_checkpoint").write_bytes(b"\0\xff\n\n")
    with pytest.raises(ConfigError, match="^--resume: .*last_checkpoint names .* not there$"):
        run(detectron2_engine, tmp_path, resume=True)
