"""Time and peak memory of cases, measured side by side. Runs on Linux."""

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
ENOUGH_S = 15.0  # of turns, for all cases of one size
LONG_S = 10.0  # a case that takes longer is run once

# what is timed: called with True, it also computes gradients
Case = Callable[[bool], None]
T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


def without_gradients(run: Callable[[], Any]) -> Case:
    """A case of what computes none: it does nothing where they are asked for."""

    def case(gradients: bool) -> None:
        if not gradients:
            run()

    return case


def take_turns(
    cases: dict[Key, Case], device: str, *, enough_s: float | None = None
) -> dict[Key, dict[str, float]]:
    """Median milliseconds of every case, without and with gradients.

    Args:
        enough_s: after so many seconds no further turn begins; default `ENOUGH_S`.
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
    """One turn, until the device has finished."""
    start = time.perf_counter()
    case(backward)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(case: Case, device: str) -> dict[str, float]:
    """Megabytes over what is allocated before, without and with gradients."""
    peaks = {}
    before = None
    ctypes.CDLL(None).malloc_trim(0)  # or freed memory would be used again and not be counted
    for name, backward in (("forward_mb", False), ("forward_backward_mb", True)):
        if device == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
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
    """Megabytes, as Linux counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


@contextmanager
def spinning(number: int) -> Iterator[None]:
    """Beside as many processes that compute all the time, as data workers do in a training."""
    # they end with this process, however it ends
    code = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """What `function` returns in a process of its own, where no earlier case's memory counts."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)
