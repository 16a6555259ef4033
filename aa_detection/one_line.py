"""Texts from outside that are to be names, or part of a line: of a message, a table, a log."""

import unicodedata

# control characters, lone surrogates, ends of lines and of paragraphs
_NOT_ON_A_LINE = ("Cc", "Cs", "Zl", "Zp")


def is_line(text: str) -> bool:
    """Whether it stays on its line, and UTF-8 has all of it."""
    # isprintable() is quick and has no such characters, nor spaces but one
    return text.isprintable() or not any(map(_breaks_line, text))


def on_one_line(text: str) -> str:
    """With escapes for what a terminal would obey or break a line at."""
    return "".join(
        each.encode("unicode_escape").decode() if _breaks_line(each) else each for each in text
    )


def _breaks_line(character: str) -> bool:
    return unicodedata.category(character) in _NOT_ON_A_LINE
