"""One line for what a user can do something about; a traceback for a bug."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from aa_detection.training.failures import RunError, exit_status, one_line_endings
from aa_detection.training.guard import StepGuard, check_weights
from aa_detection.training.interrupt import Interrupted, StopSignals


def ending(error, *, checkpoint="out/last.pth", received=None):
    stop = StopSignals()
    stop.received = received
    with pytest.raises((RunError, Interrupted)) as caught:
        with one_line_endings(stop, lambda: checkpoint, "needs 9 GB; lower A or B"):
            raise error
    return str(caught.value)


def allocation_error():
    try:
        torch.empty(1 << 50)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        allocation_error(),
    ],
    ids=["CUDA", "Python", "fork", "CPU"],
)
def test_out_of_memory(error):
    line = ending(error)
    assert line == ("out of memory: needs 9 GB; lower A or B; --resume goes on from out/last.pth")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("DataLoader worker (pid 71) is killed by signal: Killed. ", ["71", "Killed", "memory"]),
        ("DataLoader worker (pid(s) 71, 72) exited unexpectedly", ["71", "exited"]),
        (
            "DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory.",
            ["Bus error", "/dev/shm"],
        ),
    ],
)
def test_a_dead_worker(text, parts):
    line = ending(RuntimeError(text))
    for part in (*parts, "DATALOADER.NUM_WORKERS", "--resume goes on from out/last.pth"):
        assert part in line
    # a signal to all of them is the user's
    assert ending(RuntimeError(text), received=signal.SIGTERM).startswith("interrupted by SIGTERM")


def test_a_file_system_that_refuses():
    assert ending(OSError(errno.ENOSPC, "No space left on device", "out/x.pth")) == (
        "out/x.pth: No space left on device; --resume goes on from out/last.pth"
    )
    assert ending(OSError(errno.EDQUOT, "Disk quota exceeded"), checkpoint=None) == (
        "OUTPUT_DIR: Disk quota exceeded"
    )


@pytest.mark.parametrize("norm", [nn.GroupNorm(32, 32), nn.BatchNorm2d(32)], ids=["GN", "BN"])
def test_a_norm_with_a_single_value(norm):
    with pytest.raises(ValueError) as raised:
        norm(torch.ones(1, 32, 1, 1))
    line = ending(raised.value, checkpoint=None)
    assert line.startswith("a norm has a single value to normalise (Expected more than 1 value")
    assert "SOLVER.IMS_PER_BATCH" in line and "MODEL.FPN.OUT_CHANNELS" in line


def test_a_bug_keeps_its_traceback():
    for error in (RuntimeError("shape mismatch"), ValueError("x"), KeyError("y")):
        with pytest.raises(type(error)) as caught:
            with one_line_endings(StopSignals(), lambda: None, ""):
                raise error
        assert caught.value is error


def guard(checkpoint="out/last.pth"):
    return StepGuard(StopSignals(), lambda: checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(value):
    losses = {"loss_cls": torch.tensor(0.5), "loss_box_reg": torch.tensor(value)}
    with pytest.raises(RunError) as caught:
        guard().check_losses(losses, [17, 4], 123)
    line = str(caught.value)
    assert line.startswith(
        f"iteration 123: the loss is not finite (loss_cls 0.5, loss_box_reg {value}"
    )
    assert "images of the batch: 17, 4; last good checkpoint: out/last.pth" in line
    with pytest.raises(RunError, match="no checkpoint was written"):
        guard(None).check_losses(losses, [17], 0)


def test_finite_losses_pass_and_half_precision_does_not_overflow():
    check = guard()
    check.check_losses({"a": torch.tensor(6e4).half(), "b": torch.tensor(6e4).half()}, [1], 0)
    assert not check.stopping
    check.stop.received = signal.SIGTERM
    check.check_losses({"a": torch.tensor(1.0)}, [1], 1)
    assert check.stopping


def test_weights_that_are_not_finite_are_not_saved():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    check_weights(model, 5, None)
    model[1].running_var.fill_(float("nan"))
    with pytest.raises(RunError, match="iteration 5: 1 tensors .* 1.running_var first.* last.pth"):
        check_weights(model, 5, "last.pth")


def test_the_losses_of_all_processes(tmp_path):
    code = (
        "import sys, torch, torch.distributed as dist\n"
        "from aa_detection.training.guard import StepGuard\n"
        "from aa_detection.training.interrupt import StopSignals\n"
        "rank = int(sys.argv[1])\n"
        "dist.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=rank, "
        "world_size=2)\n"
        "guard = StepGuard(StopSignals(), lambda: None)\n"
        "guard.stop.received = 15 if rank else None\n"
        "guard.check_losses({'loss': torch.tensor(1.0)}, [rank], 0)\n"
        "assert guard.stopping\n"
        "guard.check_losses({'loss': torch.tensor(float('nan') if rank else 1.0)}, [rank], 7)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "meet")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in processes:
        text = process.communicate(timeout=120)[1]
        assert "RunError: iteration 7: the loss is not finite (loss nan)" in text, text
        assert "images of the batch: 0, 1;" in text


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.parametrize("signum", SIGNALS)
def test_signals_are_noted_and_given_back(signum):
    before = [*map(signal.getsignal, SIGNALS)]
    with StopSignals() as stop:
        stop.check()
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted, match=f"interrupted by {signum.name}") as end:
            stop.check()
    assert exit_status(end.value) == 128 + signum
    assert [*map(signal.getsignal, SIGNALS)] == before


def test_under_nohup_a_terminal_may_close():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal, time\n"
        "from aa_detection.training.interrupt import StopSignals\n"
        "with StopSignals():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('the same wish')\n"
        "    time.sleep(1.1)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-uc", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "the same wish\n")
    assert "once more to end at once" in done.stderr


def test_a_data_worker_outlives_a_signal_to_the_group_and_ends_with_its_parent():
    code = (
        "import multiprocessing, os, signal, time\n"
        "from aa_detection.training.interrupt import leave_to_parent\n"
        "def work(ready):\n"
        "    leave_to_parent()\n"
        "    ready.set()\n"
        "    time.sleep(60)\n"
        "fork = multiprocessing.get_context('fork')\n"
        "ready = fork.Event()\n"
        "worker = fork.Process(target=work, args=(ready,), daemon=True)\n"
        "worker.start()\n"
        "ready.wait()\n"
        "if os.fork() == 0:\n"
        "    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
        "        os.kill(worker.pid, signum)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "time.sleep(0.2)\n"
        "print('alive', worker.is_alive())\n"  # and the end of this process terminates it
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive True\n", "")
