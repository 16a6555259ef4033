"""Ctrl-C, a scheduler's SIGTERM, a lost terminal: a checkpoint first, then the end."""

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

_ONCE = 1.0  # seconds


class Interrupted(BaseException):
    """The user (SIGINT), a scheduler (SIGTERM) or a lost terminal (SIGHUP) has ended the run.

    No Exception, as KeyboardInterrupt is none: not a failure for a framework to handle.
    """

    def __init__(self, signum: int, checkpoint: str | None = None) -> None:
        name = signal.Signals(signum).name
        left = f"; --resume goes on from {checkpoint}" if checkpoint else ""
        super().__init__(f"interrupted by {name}{left}")
        self.signum = signum
        self.checkpoint = checkpoint

    def __reduce__(self) -> tuple[type, tuple[int, str | None]]:
        return type(self), (self.signum, self.checkpoint)  # from one process to another


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals to end at. nohup has a process ignore SIGHUP, and so it stays."""
    signals = (signal.SIGINT, signal.SIGTERM)
    ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return signals if ignores_hangup else (*signals, signal.SIGHUP)


class StopSignals:
    """Inside ``with``, the first of :func:`stop_signals` is noted; a second ends the process at
    once.

    Whoever trains or evaluates asks :attr:`received` between steps. What comes within a second of
    the first is the same wish: launchers hand on a signal that the whole group has had already.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.getsignal(signum) for signum in stop_signals()}
            self.install()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def install(self) -> None:
        """Take the signals (back) from whom they were given to."""
        if self._before or threading.current_thread() is threading.main_thread():
            for signum in stop_signals():
                signal.signal(signum, self._handle)

    def check(self) -> None:
        """End an evaluation between two images.

        Raises:
            Interrupted: a signal has come.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a process forked from here, which its parent will end
        now = time.monotonic()
        if self.received is not None:
            # a terminal signals every process, and so does who started this one: that is once
            if now - self._received_at > _ONCE:
                os._exit(128 + signum)
            return
        self.received, self._received_at = signum, now
        if os.environ.get("RANK", "0") != "0":
            return  # the first process says it
        name = signal.Signals(signum).name
        # no print(): a signal may arrive while one is writing
        with contextlib.suppress(OSError):  # a terminal that is gone
            os.write(
                sys.__stderr__.fileno() if sys.__stderr__ else 2,
                f"\n{name}: ending after this step; once more to end at once\n".encode(),
            )


def leave_to_parent(worker_id: int = 0) -> None:
    """In a data worker: a signal to the whole group is the training process's to act on.

    The worker ends when that process tells it to, or has died.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # a handler is not told whom a signal comes from
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
