"""Start, connect and end the processes of a run.

``--num-gpus`` uses torchrun's launcher, so a worker's environment and process group are the same
whichever of the two started it. The launcher runs in a thread of its own: in the main thread it
would handle signals, and kill workers that are still writing a checkpoint after 30 seconds.
"""

import contextlib
import datetime
import logging
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import LaunchConfig, elastic_launch

from ..training.failures import RunError
from ..training.interrupt import Interrupted, announce, handling, raise_interrupted, stop_signals
from .processes import Processes

# the others wait in a collective while the first process computes AP or opens a dataset
_TIMEOUT = datetime.timedelta(minutes=30)
_GRACE = 5.0  # seconds that a process waits for another one to end first
# gloo raises a plain RuntimeError when a peer is gone; these are its messages
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process")
_SILENT = logging.NullHandler()


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
        return _work(worker, args, device)
    if processes.total == 1:
        return worker(*args)
    with tempfile.TemporaryDirectory(prefix="aa_detection_") as folder:
        config = LaunchConfig(
            min_nodes=processes.machines,
            max_nodes=processes.machines,
            nproc_per_node=processes.per_machine,
            max_restarts=0,
            run_id="aa_detection",
            rdzv_backend="static" if processes.endpoint else "c10d",
            rdzv_endpoint=processes.endpoint or "localhost:0",  # 0: any free port
            rdzv_configs={"rank": processes.machine, "timeout": int(_TIMEOUT.total_seconds())},
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(folder),
        )
        try:
            # bytes, since multiprocessing would move tensors to shared memory, 64 MB in Docker
            work = pickle.dumps((worker, args))
            results = _launch(config, work, Path(folder), device)
        except ChildFailedError as failed:
            _, failure = failed.get_first_failure()
            error_file = Path(folder, f"{failure.local_rank}.error")
            if error_file.exists():
                raise pickle.loads(error_file.read_bytes()) from failed
            if isinstance(failure.message, dict):  # could not be pickled; torch has the traceback
                raise
            raise RunError(_how_it_ended(failure, processes)) from None
        except distributed.DistError as error:
            raise RunError(f"--dist-url: {error}") from None
    return results[min(results)]


def _launch(config: LaunchConfig, work: bytes, folder: Path, device: str) -> dict[int, Any]:
    """Start the processes, pass signals on to them and wait; return their results by rank."""
    # the launcher logs a table of what failed
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).addHandler(_SILENT)
        logging.getLogger(name).propagate = False
    results: Future[dict[int, Any]] = Future()

    def launch() -> None:
        # workers inherit the mask, so a signal waits until they can handle it
        multiprocessing.resource_tracker.ensure_running()  # unblocks signals when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
        try:
            results.set_result(elastic_launch(config, _start)(work, folder, device))
        except BaseException as error:
            results.set_exception(error)

    others = multiprocessing.active_children()
    received: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        workers = [each for each in multiprocessing.active_children() if each not in others]
        if not workers:  # still waiting for the other machines
            raise Interrupted(signum)
        if not received:
            announce(signum)
        received.append(signum)
        for each in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid or 0, signum)

    with handling(forward):
        threading.Thread(target=launch, daemon=True).start()
        return results.result()


def _start(work: bytes, folder: Path, device: str) -> Any:
    """Run in each process of :func:`_launch`; an error is left in `folder`."""
    try:
        with handling(raise_interrupted):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
            # otherwise each process would use every core and wait for the others
            share = torch.get_num_threads() // int(os.environ["LOCAL_WORLD_SIZE"])
            torch.set_num_threads(max(1, share))
            worker, args = pickle.loads(work)
            result = _work(worker, args, device)
        parent = multiprocessing.parent_process()
        if parent and not parent.is_alive():  # nobody would take the result
            raise SystemExit(1)
        return result
    except BaseException as error:
        with contextlib.suppress(Exception):  # some classes cannot be pickled
            content = pickle.dumps(error)
            pickle.loads(content)
            (folder / f"{os.environ['LOCAL_RANK']}.error").write_bytes(content)
        if isinstance(error, Exception):
            raise
        raise SystemExit(1) from None


def _work(worker: Callable[..., Any], args: tuple[Any, ...], device: str) -> Any:
    """Call the worker in a process group, in the environment that torchrun or its launcher set."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        distributed.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
        result = worker(*args)
    except Interrupted:
        if os.environ["RANK"] != "0":  # ending now would end the first before its checkpoint
            time.sleep(_GRACE)
        raise
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, distributed.DistError) and not any(w in text for w in _LOST):
            raise
        time.sleep(_GRACE)  # the lost process is the cause, and the launcher reports the first
        first_line = text.strip().partition("\n")[0]
        raise RunError(f"the processes lost touch with each other: {first_line}") from None
    distributed.destroy_process_group()
    return result


def _how_it_ended(failure: ProcessFailure, processes: Processes) -> str:
    killed = failure.exitcode < 0
    how = f"signal {failure.signal_name()}" if killed else f"status {failure.exitcode}"
    hint = ", which Linux sends when memory is full" if how == "signal SIGKILL" else ""
    return (
        f"process {failure.local_rank} of {processes.per_machine} on this machine ended with "
        f"{how}{hint}; the others were ended"
    )
