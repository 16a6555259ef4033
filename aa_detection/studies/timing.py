"""Measure time and peak memory of cases side by side, on Linux."""

import ctypes
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

MIN_TURNS, MAX_TURNS = 3, 100
ENOUGH_S = 15.0  # limit of turns for all cases of one size
LONG_S = 10.0  # a slower case is run once

# a timed function; called with True, it also computes gradients
Case = Callable[[bool], None]
T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


def without_gradients(run: Callable[[], Any]) -> Case:
    """Return a case without gradients: it does nothing if they are requested."""

    def case(gradients: bool) -> None:
        if not gradients:
            run()

    return case


def take_turns(
    cases: dict[Key, Case], device: str, *, enough_s: float | None = None
) -> dict[Key, dict[str, float]]:
    """Return median milliseconds of every case, without and with gradients.

    Args:
        enough_s: start no further turn after this many seconds; default `ENOUGH_S`.
    """
    enough_s = ENOUGH_S if enough_s is None else enough_s
    seconds: dict[tuple[Key, bool], list[float]] = defaultdict(list)
    start = time.perf_counter()
    for turn in range(MAX_TURNS):
        if turn >= MIN_TURNS and time.perf_counter() - start > enough_s:
            break
        for name, case in cases.items():
            for backward in (False, True):
                taken = seconds[name, backward]
                if not taken or taken[0] < LONG_S:
                    taken.append(seconds_of(case, backward, device))
    return {
        name: {
            "forward_ms": 1e3 * statistics.median(seconds[name, False]),
            "forward_backward_ms": 1e3 * statistics.median(seconds[name, True]),
        }
        for name in cases
    }


def seconds_of(case: Case, backward: bool, device: str) -> float:
    """Time one turn, until the device has finished."""
    start = time.perf_counter()
    case(backward)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(case: Case, device: str) -> dict[str, float]:
    """Return peak megabytes above the earlier allocation, without and with gradients."""
    peaks = {}
    before = None
    ctypes.CDLL(None).malloc_trim(0)  # otherwise freed memory is reused and not counted
    for name, backward in (("forward_mb", False), ("forward_backward_mb", True)):
        if device == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            before = before or process_memory("VmRSS")
            case(backward)
            peaks[name] = process_memory("VmHWM") - before
        else:
            torch.cuda.reset_peak_memory_stats()
            before = before or torch.cuda.memory_allocated() / 2**20
            case(backward)
            peaks[name] = torch.cuda.max_memory_allocated() / 2**20 - before
    return peaks


def process_memory(field: str) -> float:
    """Return a field of Linux's process memory in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


@contextmanager
def spinning(number: int) -> Iterator[None]:
    """Run `number` processes that compute all the time, as data workers do in a training."""
    # they end with this process however it ends
    code = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call `function` in its own process, where no earlier case's memory counts."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)
