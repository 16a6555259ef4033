"""``python -m aa_detection.d2``: detectron2's programs with this project's keys."""

import subprocess
import sys

import pytest

from .conftest import ROOT

PROGRAM = """
import sys
import torch.multiprocessing
from detectron2.config import get_cfg
from beside import WORD

def main(rank, config):
    cfg = get_cfg()
    cfg.merge_from_file(config)
    print(WORD, rank, cfg.MODEL.ATTENTION.CONV, sys.argv[1:] if rank < 0 else "", flush=True)

if __name__ == "__main__":
    main(-1, sys.argv[1])
    torch.multiprocessing.spawn(main, (sys.argv[1],), nprocs=2)
"""


@pytest.fixture
def d2(tmp_path):
    """``d2(*words)``: the command run in a folder with a space in its name."""
    folder = tmp_path / "their tools"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    (folder / "beside.py").write_text("WORD = 'found'")

    def _d2(*words):
        command = [sys.executable, "-m", "aa_detection.d2", *words]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    return _d2


def test_a_program_and_the_processes_that_it_spawns_know_the_keys(d2):
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    config = str(ROOT / "configs/aa_retinanet_R50.yaml")
    done = d2("their tools/program.py", config)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"found -1 aa {[config]}"
    assert sorted(lines[1:]) == ["found 0 aa ", "found 1 aa "]


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["nowhere.py"], 2, "nowhere.py: No such file or directory\n"),
        (["their tools"], 2, "their tools: Is a directory\n"),
        ([], 2, ""),
        (["--help"], 0, ""),
    ],
)
def test_what_is_no_program(d2, words, status, line):
    done = d2(*words)
    assert (done.returncode, done.stderr) == (status, line)
    assert bool(done.stdout) == (not line)
