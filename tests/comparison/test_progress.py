"""A line now and then, and nothing of a comparison that is quick."""

import logging

from aa_detection.comparison import progress


def test_a_line_every_ten_seconds(monkeypatch, caplog):
    clock = iter([0, 4, 9, 10, 12, 21])
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        seen = list(progress.counted("abcd", "A, run 1 of 1: classes matched"))
    assert seen == list("abcd")
    assert caplog.messages == ["A, run 1 of 1: classes matched: 2 of 4"]
