"""What a type checker tells a user's program of this package."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import torch
from torch import nn
from typing_extensions import assert_type

import aa_detection
from aa_detection import AAConv2d, AttentionSpec, augment, relative_attention_2d

class MyResNet(nn.Module):
    pass

q = torch.ones(1, 2, 3, 4, 5)
assert_type(augment(MyResNet(), AttentionSpec(conv="aw")), MyResNet)
assert_type(relative_attention_2d(q, q, q, valid_size=None), torch.Tensor)
assert_type(AAConv2d(8, 16, 3, max_size=(20, 30)).rel_h, nn.Parameter | None)
AAConv2d(8, 16, 3, max_size="20")  # wrong
AttentionSpec(stages=3)  # wrong
aa_detection.Convolution  # wrong
"""


def test_a_users_program_sees_the_types(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        # the settings and the cache of "make test", whose check of the package comes first
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", program],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line]
    wrong = [n for n, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")]
    assert found == wrong, done.stdout
