"""How a command ends."""

import numpy as np
import pytest
import torch

from aa_detection.commands.ending import run_command
from aa_detection.config import ConfigError


def raising(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb.yaml: no such file", r"a\nb.yaml: no such file"),
        ("\x1b[2J\r: no", r"\x1b[2J\r: no"),
        ("\udcff\u2028: no", r"\udcff\u2028: no"),
        ("größe/写真\u3000.jpg: no", "größe/写真\u3000.jpg: no"),
    ],
)
def test_a_name_keeps_to_the_line(text, shown, capsys):
    assert run_command("x.py", raising(ConfigError(text))) == 2
    assert capsys.readouterr().err == f"x.py: {shown}\n"
    assert run_command("x.py", raising(FileNotFoundError(2, "No such file", text))) == 2
    assert capsys.readouterr().err == f"x.py: {shown}: No such file\n"


@pytest.mark.parametrize(
    "function",
    [
        raising(MemoryError()),
        raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        lambda: np.zeros((1 << 60,), np.uint8),
        lambda: torch.zeros(1 << 60),
    ],
    ids=["Python", "CUDA", "numpy", "torch"],
)
def test_no_memory(function, capsys):
    assert run_command("x.py", function) == 1
    err = capsys.readouterr().err
    assert err.startswith("x.py: out of memory: ") and err.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command("x.py", lambda: 1 // 0)
