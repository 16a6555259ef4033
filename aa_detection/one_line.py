"""Keep text from outside, such as a name or a path, on one line of a message, table or log."""

import unicodedata

# control characters, lone surrogates, line and paragraph separators
_NOT_ON_A_LINE = ("Cc", "Cs", "Zl", "Zp")


def is_line(text: str) -> bool:
    """Return whether `text` stays on one line and can be encoded in UTF-8."""
    # isprintable() is fast; it also rejects all spaces except " ", which are allowed here
    return text.isprintable() or not any(map(_breaks_line, text))


def on_one_line(text: str) -> str:
    """Escape control characters and line breaks."""
    return "".join(
        each.encode("unicode_escape").decode() if _breaks_line(each) else each for each in text
    )


def _breaks_line(character: str) -> bool:
    return unicodedata.category(character) in _NOT_ON_A_LINE
