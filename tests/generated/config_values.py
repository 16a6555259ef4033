"""Values at and beside what the table of configuration keys allows, made from the table itself."""

import math
from collections.abc import Iterator
from typing import Any

from aa_detection.config.constraints import (
    Choice,
    Constraint,
    Device,
    Flag,
    Levels,
    ListOf,
    Number,
    Text,
)
from aa_detection.config.table import constraints

Case = tuple[str, str, Any]  # the key, what is wrong with the value, the value


def wrong_cases() -> list[Case]:
    """Of every key every kind of wrong value."""
    return [
        (name, what, value)
        for name, allowed in constraints().items()
        for what, value in (*_wrong_type(allowed), *_wrong(allowed))
    ]


def right_cases() -> list[Case]:
    """Of every key a value at each of its bounds."""
    return [
        (name, what, value)
        for name, allowed in constraints().items()
        for what, value in _right(allowed)
    ]


def _wrong_type(allowed: Constraint) -> Iterator[tuple[str, Any]]:
    yield "null", None
    yield "keys of its own", {"A": 1}
    values = {"text": "many", "whole number": 3, "fraction": 1.5, "list": [1], "flag": True}
    values |= {"complex number": "3j", "date": "2020-01-01", "huge integer": 10**400}
    for what, value in values.items():
        if not allowed.allows(value) and not _is_text(allowed, what):
            yield what, value


def _is_text(allowed: Constraint, what: str) -> bool:
    """The loader takes it for the text that it is written as."""
    return what == "date" and isinstance(allowed, Text)


def _wrong(allowed: Constraint) -> Iterator[tuple[str, Any]]:
    match allowed:
        case Number():
            yield from _wrong_numbers(allowed)
        case Choice():
            yield "another", "no such" if isinstance(allowed.values[0], str) else 10**6
        case Text():
            yield from _wrong_texts(allowed)
        case Device():
            yield from [("no device", "gpu"), ("no number", "cuda:x"), ("meta", "meta")]
        case ListOf():
            yield from _wrong_lists(allowed)
        case Levels():
            yield from _wrong_levels(allowed)
        case _:
            assert isinstance(allowed, Flag), f"no cases are made for {allowed}"


def _wrong_numbers(allowed: Number) -> Iterator[tuple[str, Any]]:
    yield "nan", math.nan
    yield "minus infinity", -math.inf
    if allowed.high < math.inf:
        yield "infinity", math.inf
        yield "above", allowed.high if allowed.below else _beyond(allowed, allowed.high, 1)
        yield "far above", 2**70 if allowed.whole else 1e300
    yield "below", allowed.low if allowed.above else _beyond(allowed, allowed.low, -1)
    yield "far below", -(2**70) if allowed.whole else -1e300


def _beyond(allowed: Number, bound: float, sign: int) -> float:
    if allowed.whole:
        return bound + sign
    return math.nextafter(float(bound), sign * math.inf)


def _wrong_texts(allowed: Text) -> Iterator[tuple[str, Any]]:
    yield "two lines", "a\nb"
    yield "a zero byte", "a\0b"
    yield "an escape", "a\x1b[2Jb"
    yield "longer than a path", "x" * 5000
    if not allowed.empty:
        yield "nothing", ""


def _wrong_lists(allowed: ListOf) -> Iterator[tuple[str, Any]]:
    least = max(1, allowed.least)
    good = [value for _, value in _right(allowed.each)]
    entries = sorted(good)[:1] * least if allowed.order != "increasing" else sorted(good)[:least]
    for what, value in (*_wrong_type(allowed.each), *_wrong(allowed.each)):
        yield f"of {what}", [*entries[1:], value]
    yield "nested", [entries]
    if allowed.least:
        yield "too few", entries[: allowed.least - 1]
    yield "too many", entries[:1] * (allowed.most + 1)
    if allowed.order:
        low, high = min(good), max(good)
        yield "reversed", [high, low]
    if allowed.order == "increasing":
        yield "equal", [good[0], good[0]]


def _wrong_levels(allowed: Levels) -> Iterator[tuple[str, Any]]:
    good = [value for _, value in _right(allowed.each)]
    yield from [("empty", []), ("of nothing", [[]]), ("three deep", [[[1.0]]])]
    yield from [("mixed", [1.0, [2.0]]), ("one empty", [[1.0], [], [1.0], [1.0], [1.0]])]
    yield from [("three levels", [good, good, good]), ("text", "many"), ("of a text", ["many"])]
    yield "another number on a level", [[1.0, 2.0], *[[1.0]] * 4]
    for what, value in (*_wrong_type(allowed.each), *_wrong(allowed.each)):
        yield f"of {what}", [[1.0, value]]
        yield f"flat, of {what}", [1.0, value]


def _right(allowed: Constraint) -> Iterator[tuple[str, Any]]:
    match allowed:
        case Number(low=low, high=high):
            yield "low", _beyond(allowed, low, 1) if allowed.above else low
            yield "high", _beyond(allowed, high, -1) if allowed.below else high
        case Choice():
            yield from ((repr(value), value) for value in allowed.values)
        case Text():
            yield from [("plain", "a b"), ("not ASCII", "größe/写真\u3000")]
        case Device():
            yield from [("cpu", "cpu"), ("cuda", "cuda"), ("first", "cuda:0")]
        case Flag():
            yield from [("true", True), ("false", False)]
        case ListOf():
            values = [value for _, value in _right(allowed.each)]
            values = sorted(values) if allowed.order else values
            shortest = values[: allowed.least]
            shortest += values[:1] * (allowed.least - len(shortest))
            yield "shortest", shortest
            if allowed.least <= len(values) <= allowed.most:
                yield "every", values
        case Levels():
            values = [value for _, value in _right(allowed.each)]
            yield from [("flat", values), ("one", [values]), ("each", [values] * 5)]
