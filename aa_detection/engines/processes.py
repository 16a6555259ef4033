"""Start, connect and end several processes on one or more machines.

torchrun starts processes and passes each its rank in the environment. :func:`run_together` takes
over from there, or, for ``--num-gpus``, starts its own processes the same way. Either engine's
worker runs in a torch.distributed process group and cannot tell the difference.
"""

import contextlib
import datetime
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.multiprocessing
from torch import distributed

from ..config import ConfigError
from ..one_line import on_one_line
from ..training.failures import RunError
from ..training.interrupt import stop_signals
from .options import RunOptions

# the others wait in a collective while the first process computes AP or opens a dataset
_TIMEOUT = datetime.timedelta(minutes=30)
_GRACE = 5.0  # seconds that processes get to end by themselves after losing another one
# messages of gloo and NCCL when the peer is gone
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process")


class _RemoteTraceback(Exception):
    """The traceback of an error in another process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class Processes:
    """The processes of a run on all machines.

    Attributes:
        per_machine: processes on each machine.
        machine: rank of this machine.
        url: rendezvous address, as `torch.distributed.init_process_group` takes it.
        started: whether torchrun started this process.
    """

    per_machine: int = 1
    machines: int = 1
    machine: int = 0
    url: str = "auto"
    started: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process starts the run; valid before any process group exists."""
        return self.machine == 0 and not (self.started and os.environ["RANK"] != "0")

    @property
    def total(self) -> int:
        """Number of processes on all machines."""
        return self.per_machine * self.machines


def plan_processes(device: str, options: RunOptions) -> Processes:
    """Plan the processes from the command line or, under torchrun, from its environment.

    Args:
        device: ``MODEL.DEVICE``; with ``cuda`` every process has its own GPU.
        options: ``num_gpus`` 0 counts as 1.

    Raises:
        ConfigError: options that contradict each other, or too few GPUs.
    """
    num_machines, machine_rank = options.num_machines, options.machine_rank
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if num_machines != 1 or machine_rank or options.dist_url != "auto":
            raise ConfigError(
                "--num-machines, --machine-rank and --dist-url: torchrun started this process and "
                "has options of its own for them, --nnodes, --node-rank and --rdzv-endpoint"
            )
        per_machine = int(os.environ["LOCAL_WORLD_SIZE"])
        plan = Processes(
            per_machine,
            int(os.environ["WORLD_SIZE"]) // per_machine,
            int(os.environ["GROUP_RANK"]),
            "env://",
            started=True,
        )
    else:
        plan = Processes(max(1, options.num_gpus), num_machines, machine_rank, options.dist_url)
        if num_machines < 1 or not 0 <= machine_rank < num_machines:
            raise ConfigError(
                f"--machine-rank {machine_rank} of --num-machines {num_machines}: expected a rank "
                "from 0 to the number of machines less 1"
            )
        if num_machines > 1 and options.dist_url == "auto":
            raise ConfigError(
                f"--num-machines {num_machines} needs --dist-url tcp://HOST:PORT, a free port of "
                "the machine of rank 0"
            )
    if device.startswith("cuda") and plan.per_machine > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus: {plan.per_machine} processes want a GPU each, this machine has "
            f"{torch.cuda.device_count()}"
        )
    return plan


def run_together(
    worker: Callable[..., Any], args: tuple[Any, ...], *, processes: Processes, device: str
) -> Any:
    """Call ``worker(*args)`` in every process; `worker` and `args` must be picklable.

    Returns:
        The result of rank 0's worker; on a machine without rank 0, of its first process.

    Raises:
        RunError: a process was killed, or lost the others.
        BaseException: the first error of a worker on this machine; the other workers are ended.
    """
    if processes.started:
        try:
            _join(processes, int(os.environ["LOCAL_RANK"]), device)
            result = worker(*args)
        except RuntimeError as error:
            named = _lost_touch(error)
            if named is None:
                raise
            raise named from None
        distributed.destroy_process_group()
        return result
    if processes.total == 1:
        return worker(*args)
    with tempfile.TemporaryDirectory(prefix="aa_detection_") as name:
        folder = Path(name)
        if processes.url == "auto":
            # a file rather than a port, which another program might take in the meantime
            url = (folder / "meeting_point").as_uri()
            processes = Processes(processes.per_machine, url=url)
        return _start(worker, args, processes, device, folder)


def is_first_process() -> bool:
    """Whether this process writes the files; true if it is the only one."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def print_error(line: str) -> None:
    """Print an error's line to standard error from only one of torchrun's processes.

    Bad input fails all processes alike. The first one prints at once and exits, and torchrun then
    ends the others. A process that is still alive after a while prints its own error.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0":
        time.sleep(2 * _GRACE)
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(on_one_line(line), file=sys.stderr, flush=True)


def _start(
    worker: Callable[..., Any],
    args: tuple[Any, ...],
    processes: Processes,
    device: str,
    folder: Path,
) -> Any:
    # the child unpickles this after setting its environment, which libraries read on import
    (folder / "work").write_bytes(pickle.dumps((worker, args)))
    context = torch.multiprocessing.start_processes(
        _child,
        (processes, device, folder),
        nprocs=processes.per_machine,
        join=False,
        start_method="spawn",  # a forked process cannot use CUDA
    )
    with _forwarded(context.pids()):
        try:
            while not context.join(grace_period=_GRACE):
                pass
        except torch.multiprocessing.ProcessRaisedException:
            raise  # failed before the worker's first line
        except torch.multiprocessing.ProcessExitedException as exit:
            error, where = _cause(exit, processes, folder)
            raise error from where
        finally:
            for process in context.processes:
                process.terminate()
    return pickle.loads((folder / "0.result").read_bytes())


@contextlib.contextmanager
def _forwarded(pids: Sequence[int]) -> Iterator[None]:
    """Leave signals to the processes; this one waits for them to end."""

    def forward(signum: int, frame: FrameType | None) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, forward) for s in stop_signals()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _cause(
    exit: torch.multiprocessing.ProcessExitedException, processes: Processes, folder: Path
) -> tuple[BaseException, _RemoteTraceback | None]:
    """Return the first error of any process; the one noticed first may only have lost it."""
    errors = [pickle.loads(file.read_bytes()) for file in folder.glob("*.error")]
    if exit.signal_name or not errors:
        how = f"signal {exit.signal_name}" if exit.signal_name else f"status {exit.exit_code}"
        hint = ", which Linux sends when memory is full" if exit.signal_name == "SIGKILL" else ""
        line = (
            f"process {exit.error_index} of {processes.per_machine} on this machine ended with "
            f"{how}{hint}; the others were ended"
        )
        return RunError(line), None
    _, error, text = min(errors, key=lambda content: content[0])
    return error, _RemoteTraceback(text)


def _child(local_rank: int, processes: Processes, device: str, folder: Path) -> None:
    rank = processes.machine * processes.per_machine + local_rank
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(processes.total),
        LOCAL_RANK=str(local_rank),
        LOCAL_WORLD_SIZE=str(processes.per_machine),
        GROUP_RANK=str(processes.machine),
    )
    # otherwise each process would use every core and wait for the others
    torch.set_num_threads(max(1, torch.get_num_threads() // processes.per_machine))
    try:
        worker, args = pickle.loads((folder / "work").read_bytes())
        _join(processes, local_rank, device)
        result = worker(*args)
        (folder / f"{local_rank}.result").write_bytes(pickle.dumps(result))
        distributed.destroy_process_group()
    except BaseException as error:  # Interrupted is not an Exception
        now, text = time.time(), traceback.format_exc()
        if isinstance(error, RuntimeError):
            error = _lost_touch(error) or error
        try:
            content = pickle.dumps((now, error, text))
            pickle.loads(content)
        except Exception:  # some classes cannot be pickled
            content = pickle.dumps((now, RuntimeError(f"{type(error).__name__}: {error}"), text))
        part = folder / f"{local_rank}.part"
        part.write_bytes(content)
        part.rename(folder / f"{local_rank}.error")
        raise SystemExit(1) from None


def _join(processes: Processes, local_rank: int, device: str) -> None:
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(local_rank)
    place: dict[str, Any] = {} if processes.url == "env://" else {
        "rank": processes.machine * processes.per_machine + local_rank,
        "world_size": processes.total,
    }  # fmt: skip
    distributed.init_process_group(
        "nccl" if cuda else "gloo", init_method=processes.url, timeout=_TIMEOUT, **place
    )


def _lost_touch(error: RuntimeError) -> RunError | None:
    """Return a one-line error for torch.distributed's errors about a lost peer."""
    text = str(error)
    if isinstance(error, distributed.DistError) or any(words in text for words in _LOST):
        first_line = text.strip().partition("\n")[0]
        return RunError(f"the processes lost touch with each other: {first_line}")
    return None
