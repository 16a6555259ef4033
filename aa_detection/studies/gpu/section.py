"""The result of one section of the check, and its time limit."""

import time
from dataclasses import dataclass, field
from typing import Any

from ..benchmarks.rows import Row


@dataclass
class Section:
    """Rows of figures, their text, and what is wrong with them.

    Attributes:
        name: name of its files.
        rows: the measurements.
        text: a table of them.
        checks: number of conditions checked.
        failures: one line for each failed condition.
        left_out: one line for each case skipped for lack of time.
        bars: the project's own targets, and whether they are met.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    text: str = ""
    checks: int = 0
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)

    def expect(self, right: bool, failure: str) -> None:
        """Record a condition, with a message for its failure."""
        self.checks += 1
        if not right:
            self.failures.append(failure)

    def bar(self, what: str, found: float | None, most: float) -> None:
        """Record a target: a ratio that should not exceed `most`; None if not measured."""
        self.bars.append({"what": what, "found": found, "most": most})


class Clock:
    """The time that a section has left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())


def dtype_name(dtype: Any) -> str:
    """Return ``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """Return one line of an error's message, at most 160 characters, or its class."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:160]
