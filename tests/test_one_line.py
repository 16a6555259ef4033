"""What stays on its line."""

import pytest

from aa_detection.one_line import is_line, on_one_line


@pytest.mark.parametrize("text", ["", "a b", "größe/写真\u3000.jpg", "a\u00a0b", "\U0001f600"])
def test_a_line(text):
    assert is_line(text) and on_one_line(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[2J\r", r"\x1b[2J\r"),
        ("\udcff", r"\udcff"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("a\0", r"a\x00"),
    ],
)
def test_no_line(text, shown):
    assert not is_line(text) and on_one_line(text) == shown
