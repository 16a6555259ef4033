"""Failures of a run that its input did not cause, each reported in one line."""

import contextlib
import errno
import re
import threading
from collections.abc import Callable, Iterator

import torch

from .interrupt import Interrupted, StopSignals


class RunError(RuntimeError):
    """A run failed. One line: what, where, and what is left on disk."""


def exit_status(end: BaseException) -> int:
    """Return the exit status for an exception.

    2 for input that cannot be used, 1 for a failed run, and 129, 130 and 143 for a run ended by
    SIGHUP, SIGINT (Ctrl-C) and SIGTERM.
    """
    if isinstance(end, Interrupted):
        return 128 + end.signum
    return 1 if isinstance(end, RunError) else 2


@contextlib.contextmanager
def one_line_endings(
    stop: StopSignals,
    last_checkpoint: Callable[[], str | None],
    memory_advice: str,
) -> Iterator[None]:
    """Turn errors that a user can fix into one line that says what is left to resume from.

    Args:
        stop: the run's signals.
        last_checkpoint: returns the newest complete checkpoint.
        memory_advice: how to lower the run's memory use.

    Raises:
        RunError, Interrupted: in place of the original error; other errors pass through.
    """
    report_thread = threading.excepthook
    # TensorBoard writes in its own thread, and raises errors as well as printing them
    threading.excepthook = lambda args: is_accident(args.exc_value) or report_thread(args)
    try:
        yield
    except Interrupted as end:
        raise Interrupted(end.signum, last_checkpoint()) from None
    except Exception as error:
        if not is_accident(error):
            raise
        checkpoint = last_checkpoint()
        if stop.received and _is_dead_worker(error):  # the signal reached the whole group
            raise Interrupted(stop.received, checkpoint) from None
        if isinstance(error, RunError):
            raise
        goes_on = f"; --resume goes on from {checkpoint}" if checkpoint else ""
        raise RunError(_say(error, memory_advice) + goes_on) from None
    finally:
        threading.excepthook = report_thread


def is_accident(error: BaseException | None) -> bool:
    """Whether :func:`one_line_endings` has a line for an error; otherwise it is a bug."""
    return (
        isinstance(error, (RunError, OSError))
        or is_out_of_memory(error)
        or _is_dead_worker(error)
        or _is_lone_value(error)
    )


def _say(error: Exception, memory_advice: str) -> str:
    if is_out_of_memory(error):
        return f"out of memory: {memory_advice}"
    if _is_dead_worker(error):
        return _dead_worker(str(error))
    if _is_lone_value(error):
        return (
            f"a norm has a single value to normalise ({error}): take larger images "
            "(INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST), a larger SOLVER.IMS_PER_BATCH, or for "
            "the 32 groups of GN a MODEL.FPN.OUT_CHANNELS of at least 64"
        )
    # errors of an image library, or of a data worker, which quotes a traceback
    if not isinstance(error, OSError) or error.errno is None:
        return str(error).strip().splitlines()[-1]
    return f"{error.filename or 'OUTPUT_DIR'}: {error.strerror}"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that memory ran out, on a GPU or the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # the CPU allocator has no error class; a data worker's error is quoted
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)


def _is_dead_worker(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def _is_lone_value(error: BaseException | None) -> bool:
    words = "Expected more than 1 value per channel when training"
    return isinstance(error, ValueError) and str(error).startswith(words)


def _dead_worker(text: str) -> str:
    pid = re.findall(r"\d+", text)[0]
    killed = re.search(r"killed by signal: (.*?)\.", text)
    how = f"was killed ({killed[1]})" if killed else "exited"
    if killed and killed[1] == "Bus error":
        hint = "shared memory is full: enlarge /dev/shm or lower DATALOADER.NUM_WORKERS"
    else:
        hint = "mostly for want of memory: lower DATALOADER.NUM_WORKERS or free memory"
    return f"data worker {pid} {how}, {hint}"
