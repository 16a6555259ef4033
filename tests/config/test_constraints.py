"""Constraints by themselves, and what a batch and a network may come to."""

import math

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import ConfigError, check_batch
from aa_detection.config.constraints import (
    Choice,
    Device,
    Levels,
    ListOf,
    Number,
    Text,
    refusal,
    whole,
)


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "expected"),
    [
        (
            Number(0, 1, above=True),
            [1, 1.0, 5e-324],
            [0, 0.0, -0.0, math.nextafter(1, 2), math.nan, math.inf, True, "1", None, [1]],
            "a number above 0 and at most 1",
        ),
        (Number(1, math.inf), [1, math.inf], [0.5, math.nan], "a number from 1 to inf"),
        (whole(-1, 1000, "x"), [-1, 1000], [-2, 1001, 1.0], "a whole number from -1 to 1,000 (x)"),
        (Choice(1, "a"), [1, "a"], [True, 1.0, "A", None, []], "one of 1, 'a'"),
        (Text(), ["a", " ", "é"], ["", "a\nb", "a\u2028b", "\udcff", 3], None),
        (Text(empty=True), [""], [None], "a line of text"),
        (Device(), ["cpu", "cuda", "cuda:0"], ["gpu", "cuda:-1", "meta", 3, None], None),
        (
            ListOf(whole(0, 9), least=1, order="sorted"),
            [[0], (1, 1, 2)],
            [[], [2, 1], [10], 1, "1", [[1]], range(3)],
            "a list of 1 or more, sorted, each a whole number from 0 to 9",
        ),
        (ListOf(whole(0, 9), 2, 2, order="increasing"), [[0, 1]], [[1, 1], [1]], None),
        (
            Levels(Number(0.5, 9)),
            [[1], [1, 2.5], [[1]], [[1], [2, 3]]],
            [[], [[]], [1, [2]], [[[1]]], [[0]], 1, [["a"]]],
            None,
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, (list, str)) else "",
)
def test_constraints(allowed, good, bad, expected):
    assert [value for value in good if not allowed.allows(value)] == []
    assert [value for value in bad if allowed.allows(value)] == []
    assert expected is None or allowed.expected == expected


def test_a_choice_that_grows():
    names = {"a": 1}
    allowed = Choice("", registry=names)
    assert not allowed.allows("b")
    names["b"] = 2
    assert allowed.allows("b") and allowed.expected == "one of '', 'a', 'b'"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", r"'a\nb'"),
        ("x" * 1000, f"'{'x' * 76}..."),
        (1 << 20_000, "a int too long to show"),
        (math.nan, "nan"),
        ("\ud800", r"'\ud800'"),
    ],
    ids=["line end", "long", "digits", "nan", "surrogate"],
)
def test_a_value_in_a_message(value, shown):
    assert str(refusal("A.B", value, "less")) == f"A.B: got {shown}, expected less"


@pytest.fixture
def cfg():
    jitter = {"ENABLED": False, "SIZE": 1024}
    return CfgNode(
        {
            "SOLVER": {"IMS_PER_BATCH": 1600},
            "INPUT": {"MIN_SIZE_TRAIN": (640, 800), "MAX_SIZE_TRAIN": 1333, "SCALE_JITTER": jitter},
        }
    )


@pytest.mark.parametrize(
    ("change", "processes", "fits"),
    [
        ({}, 1, True),  # 1600 · 800² = 1.02e9, and 2^30 is the most
        ({"SOLVER.IMS_PER_BATCH": 1678}, 1, False),
        ({"SOLVER.IMS_PER_BATCH": 3200}, 2, True),
        ({"INPUT.MAX_SIZE_TRAIN": 100, "SOLVER.IMS_PER_BATCH": 65536}, 1, True),
        ({"INPUT.MIN_SIZE_TRAIN": (0,), "SOLVER.IMS_PER_BATCH": 65536}, 1, True),  # who knows
        ({"INPUT.SCALE_JITTER.ENABLED": True, "SOLVER.IMS_PER_BATCH": 1024}, 1, True),
        ({"INPUT.SCALE_JITTER.ENABLED": True, "SOLVER.IMS_PER_BATCH": 1025}, 1, False),
    ],
    ids=str,
)
def test_what_a_batch_comes_to(cfg, change, processes, fits):
    for name, value in change.items():
        *groups, last = name.split(".")
        node = cfg
        for group in groups:
            node = node[group]
        node[last] = value
    if fits:
        check_batch(cfg, processes)
        return
    with pytest.raises(ConfigError, match=r"^SOLVER.IMS_PER_BATCH: got .*, expected less: .*pixel"):
        check_batch(cfg, processes)
