"""What a part of the check leaves behind, and how long it may take."""

import time
from dataclasses import dataclass, field
from typing import Any

from ..benchmarks.rows import Row


@dataclass
class Section:
    """Rows of figures, the same as text, and what of them is wrong.

    Attributes:
        name: of its files.
        rows: what was measured.
        text: a table of it.
        checks: how many things had to hold.
        failures: a line for each that did not.
        left_out: a line for each that there was no time for.
        bars: figures that the project set itself, and whether they are met.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    text: str = ""
    checks: int = 0
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)

    def expect(self, right: bool, failure: str) -> None:
        """One more thing that has to hold, and what to say if it does not."""
        self.checks += 1
        if not right:
            self.failures.append(failure)

    def bar(self, what: str, found: float | None, most: float) -> None:
        """A ratio that should not exceed a number; None where it was not measured."""
        self.bars.append({"what": what, "found": found, "most": most})


class Clock:
    """Of one part: how many seconds it has left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self._end - time.monotonic())


def dtype_name(dtype: Any) -> str:
    """``float32`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """What an error says, in a line of at most 160 characters, its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:160]
