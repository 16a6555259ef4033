"""End on Ctrl-C, SIGTERM or a lost terminal after writing a checkpoint."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_ONCE = 1.0  # seconds


class Interrupted(BaseException):
    """The user (SIGINT), a scheduler (SIGTERM) or a lost terminal (SIGHUP) ended the run.

    Like KeyboardInterrupt not an Exception, so that frameworks do not handle it as a failure.
    """

    def __init__(self, signum: int, checkpoint: str | None = None) -> None:
        name = signal.Signals(signum).name
        left = f"; --resume goes on from {checkpoint}" if checkpoint else ""
        super().__init__(f"interrupted by {name}{left}")
        self.signum = signum
        self.checkpoint = checkpoint

    def __reduce__(self) -> tuple[type, tuple[int, str | None]]:
        return type(self), (self.signum, self.checkpoint)  # for pickling between processes


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end a run. nohup ignores SIGHUP; it stays ignored."""
    signals = (signal.SIGINT, signal.SIGTERM)
    ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return signals if ignores_hangup else (*signals, signal.SIGHUP)


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `handler` on :func:`stop_signals` inside ``with``, if this is the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.signal(signum, handler) for signum in stop_signals()}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    """Raise :class:`Interrupted`; a handler of signals."""
    raise Interrupted(signum)


def announce(signum: int) -> None:
    """Tell the user that a signal was received and what a second one does."""
    # no print(): the signal may arrive during a write
    line = f"\n{signal.Signals(signum).name}: ending after this step; once more to end at once\n"
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())


class StopSignals:
    """Record the first of :func:`stop_signals` inside ``with``; a second ends the process at once.

    Training and evaluation check :attr:`received` between steps. A signal within a second of the
    first counts as the same one: launchers forward a signal that the whole group has already
    received.
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
        """Install the handlers, again if another library has replaced them."""
        if self._before or threading.current_thread() is threading.main_thread():
            for signum in stop_signals():
                signal.signal(signum, self._handle)

    def check(self) -> None:
        """End an evaluation between two images.

        Raises:
            Interrupted: a signal was received.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a forked process, which its parent will end
        now = time.monotonic()
        if self.received is not None:
            # a terminal signals every process, and so does the launcher: count that once
            if now - self._received_at > _ONCE:
                os._exit(128 + signum)
            return
        self.received, self._received_at = signum, now
        # one process announces it: the launcher of spawned ones, the first of torchrun's
        if multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":
            announce(signum)


def leave_to_parent(worker_id: int = 0) -> None:
    """Make a data worker ignore signals to the whole group; the training process handles them.

    The worker ends when that process tells it to, or dies.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # a handler does not know the signal's sender
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
