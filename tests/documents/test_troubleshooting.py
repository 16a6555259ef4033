"""docs/troubleshooting.md: every message it quotes is still one of this project's."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [
    line
    for block in re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]


def texts(file: Path) -> Iterator[str]:
    """The text constants of a source file, an f-string's between its values; no docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings:
                yield re.sub(r"%[sd]", "…", node.value)


@pytest.fixture(scope="module")
def sources():
    files = (ROOT / "aa_detection").rglob("*.py")
    return [text for file in files for text in texts(file)]


def missing(message, sources):
    """The parts of a message, between the … for what varies, that no source has."""
    parts = [part.strip(" :;,()") for part in message.split("…")]
    parts = [part for part in parts if len(part) > 3]  # not the punctuation between two values
    assert any(len(part) >= 8 for part in parts), f"nothing to look for: {message}"
    return [part for part in parts if not any(part in text for text in sources)]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:60])
def test_message_is_raised_somewhere(message, sources):
    lost = missing(message, sources)
    assert not lost, f"docs/troubleshooting.md quotes what no source says: {lost}"


def test_a_message_that_nobody_raises_is_found(sources):
    assert missing("MODEL.ATTENTION.CONV …: has gone to lunch", sources) == ["has gone to lunch"]


def test_the_page_has_the_common_ones():
    assert len(MESSAGES) > 30
    assert len(set(MESSAGES)) == len(MESSAGES)
