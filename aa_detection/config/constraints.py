"""Constraints on the value of a config key: type, shape and range.

A constraint checks one value by itself; :mod:`.relations` checks values against each other. Ranges
are attributes, so that tests can be generated from them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from fvcore.common.config import CfgNode

from ..one_line import is_line
from .errors import ConfigError

_MOST_ENTRIES = 1000
_MOST_CHARACTERS = 4096  # Linux's limit for a path


class Constraint(Protocol):
    """Protocol of the classes below."""

    @property
    def expected(self) -> str:
        """Describe the allowed values, in words that follow "expected"."""

    def allows(self, value: Any) -> bool:
        """Return whether `value`, of any type, is allowed."""


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, but not NaN.

    Args:
        above, below: exclude `low` or `high` itself.
        whole: integers only.
        note: the unit or meaning of the numbers, if it is not obvious.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    whole: bool = False
    note: str = ""

    @property
    def expected(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low, high = _number(self.low), _number(self.high)
        if self.above or self.below:
            words = f"{'above' if self.above else 'at least'} {low} and "
            words += f"{'below' if self.below else 'at most'} {high}"
        else:
            words = f"from {low} to {high}"
        return f"{kind} {words}{f' ({self.note})' if self.note else ''}"

    def allows(self, value: Any) -> bool:
        if type(value) is not int and (self.whole or type(value) is not float):
            return False
        if self.above and value == self.low or self.below and value == self.high:
            return False
        return bool(self.low <= value <= self.high)


def _number(number: float) -> str:
    return f"{number:,}" if abs(number) >= 1000 else f"{number:g}"


def whole(low: int, high: int, note: str = "") -> Number:
    """Return the constraint to integers from `low` to `high`."""
    return Number(low, high, whole=True, note=note)


@dataclass(frozen=True)
class Flag:
    """True or False."""

    expected: str = "True or False"

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)


class Choice:
    """One of a set of values.

    Args:
        registry: further allowed values, read at each check because it may grow.
    """

    def __init__(self, *values: Any, registry: Mapping[str, Any] | None = None) -> None:
        self._values = values
        self._registry: Collection[Any] = {} if registry is None else registry

    @property
    def values(self) -> tuple[Any, ...]:
        return (*self._values, *self._registry)

    @property
    def expected(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"

    def allows(self, value: Any) -> bool:
        return any(type(value) is type(each) and value == each for each in self.values)


@dataclass(frozen=True)
class Text:
    """One line of text that can be a file name.

    Args:
        empty: allow an empty text.
    """

    empty: bool = False

    @property
    def expected(self) -> str:
        return f"a line of text{'' if self.empty else ' that is not empty'}"

    def allows(self, value: Any) -> bool:
        if not isinstance(value, str) or not (self.empty or value):
            return False
        return is_line(value) and len(value) <= _MOST_CHARACTERS


@dataclass(frozen=True)
class Device:
    """A device by torch's name. Without a GPU every CUDA name is allowed and means the CPU."""

    expected: str = "cuda, cuda:<number> of an available GPU, or cpu"

    def allows(self, value: Any) -> bool:
        try:
            device = torch.device(value) if isinstance(value, str) else None
        except RuntimeError:
            return False
        if device is None:
            return False
        if device.type == "cuda":
            count = torch.cuda.device_count()
            return device.index is None or count == 0 or device.index < count
        return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


@dataclass(frozen=True)
class ListOf:
    """A list or tuple.

    Args:
        each: constraint on each entry.
        least, most: bounds on the length.
        order: "" any; "increasing" strictly; "sorted" also allows equal neighbours.
    """

    each: Constraint
    least: int = 0
    most: int = _MOST_ENTRIES
    order: str = ""

    @property
    def expected(self) -> str:
        if self.least == self.most:
            count = f"a list of {self.least}"
        else:
            count = "a list" + (f" of {self.least} or more" if self.least else "")
        order = f"{self.order}, " if self.order else ""
        return f"{count}, {order}each {self.each.expected}"

    def allows(self, value: Any) -> bool:
        if not isinstance(value, (list, tuple)) or not self.least <= len(value) <= self.most:
            return False
        if not all(map(self.each.allows, value)):
            return False
        if self.order == "increasing":
            return all(low < high for low, high in zip(value, value[1:]))
        return not self.order or all(low <= high for low, high in zip(value, value[1:]))


@dataclass(frozen=True)
class Levels:
    """One list for each pyramid level, or one for all levels, nested or not."""

    each: Constraint

    @property
    def expected(self) -> str:
        return (
            "one list for all levels, such as [[1.0, 2.0]], or one for each, their entries "
            f"{self.each.expected}"
        )

    def allows(self, value: Any) -> bool:
        level = ListOf(self.each, least=1)
        return level.allows(value) or ListOf(level, least=1).allows(value)


def get(cfg: CfgNode, name: str) -> Any:
    """Return the value of a key by its dotted name."""
    value: Any = cfg
    for part in name.split("."):
        value = value[part]
    return value


def require(cfg: CfgNode, name: str, allowed: Constraint) -> None:
    """Refuse a value that violates its key's constraint.

    Raises:
        ConfigError: names the key, the value, and what was expected.
    """
    value = get(cfg, name)
    if not allowed.allows(value):
        raise refusal(name, value, allowed.expected)


def refusal(name: str, value: Any, expected: str) -> ConfigError:
    """Return the one-line error for a key's value."""
    return ConfigError(f"{name}: got {shown(value)}, expected {expected}")


def shown(value: Any) -> str:
    """Return a value as one line, truncated if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a recursive list
        text = f"a {type(value).__name__} too long to show"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= 80 else f"{text[:77]}..."
