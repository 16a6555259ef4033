"""Files that are whole or not there."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from aa_detection.atomic_file import UNFINISHED, atomic_write, remove_unfinished
from aa_detection.config import ConfigError
from aa_detection.training.files import check_output_dir, cut_metrics


@contextlib.contextmanager
def full_disk(size=20_000):
    """Files of at most `size` bytes: the file system refuses the rest, as one that is full does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_has_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "a.json"
    with atomic_write(path, "w") as file:
        file.write("é")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "é"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_what_was_there_outlives_a_failure(tmp_path, failure):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(failure), atomic_write(path) as file:
        file.write(b"half")
        raise failure
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("save", [lambda f: f.write(bytes(50_000)), None], ids=["bytes", "torch"])
def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path, save):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with full_disk(), pytest.raises(OSError, match="File too large") as error:
        with atomic_write(path) as file:
            # torch.save raises a RuntimeError of its own
            (save or (lambda f: torch.save(torch.zeros(20_000), f)))(file)
    assert error.value.filename == str(path)
    assert error.value.errno == errno.EFBIG
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a"]


def test_leftovers_of_a_kill_are_removed(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from aa_detection.atomic_file import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'x'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "deep" / "a"
    target.parent.mkdir()
    done = subprocess.run([sys.executable, "-c", code, target], timeout=60)
    assert done.returncode == -9
    assert os.listdir(target.parent) == [f"a{UNFINISHED}"]
    (tmp_path / f"folder{UNFINISHED}").mkdir()
    (tmp_path / "kept").touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "kept"]


def test_an_output_folder_is_made_and_left_empty(tmp_path):
    check_output_dir(tmp_path / "a" / "b c")
    assert os.listdir(tmp_path / "a" / "b c") == []


def test_an_output_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder, why in (
        (tmp_path / "file", "is a file, expected a folder"),
        (tmp_path / "file" / "below", "cannot write there: Not a directory"),
    ):
        with pytest.raises(ConfigError, match=f"OUTPUT_DIR {folder}: {why}"):
            check_output_dir(folder)
    with full_disk(0), pytest.raises(ConfigError, match="File too large"):
        check_output_dir(tmp_path / "full")


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.json"
    cut_metrics(path, 3)  # none yet
    whole = "".join(json.dumps({"iteration": i, "total_loss": 1.0}) + "\n" for i in range(6))
    path.write_text(whole + '{"iteration": 2, "to')
    with path.open("a") as writer:
        cut_metrics(path, 4)
        writer.write('{"iteration": 4}\n')
    lines = path.read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2, 3, 4]
    path.write_text(whole + "not JSON\n" + '{"loss": 1}\n' + "[]\n" + '{"iteration": 1}')
    cut_metrics(path, 100)
    assert path.read_text() == whole
