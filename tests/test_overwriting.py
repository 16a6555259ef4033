"""An output that is, contains or lies in an input is refused, however its path is written."""

import os

import pytest

from aa_detection.config import ConfigError
from aa_detection.overwriting import refuse_overwriting


@pytest.fixture
def files(tmp_path, monkeypatch):
    """``photos/a.jpg``, ``photos/more/b.jpg``, ``results.json``, and other names for them."""
    (tmp_path / "photos/more").mkdir(parents=True)
    for name in ("photos/a.jpg", "photos/more/b.jpg", "results.json"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "link.json").symlink_to("results.json")
    os.link(tmp_path / "results.json", tmp_path / "hard.json")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("read", "written", "relation"),
    [
        ("photos", "photos", "is also"),
        ("photos", "photos/", "is also"),
        ("photos", "link", "is also"),
        ("link", "photos", "is also"),
        ("photos", "elsewhere/../photos", "is also"),
        ("photos", "photos/out", "lies in"),
        ("photos", "link/out/deeper", "lies in"),
        ("photos", "photos/a.jpg", "lies in"),
        ("photos/more", ".", "contains"),
        ("photos/more/b.jpg", "link", "contains"),
        ("results.json", "results.json", "is also"),
        ("results.json", "./link.json", "is also"),
        ("results.json", "hard.json", "is also"),
        ("link.json", "hard.json", "is also"),
        ("results.json", ".", "contains"),
        ("results.json", "results.json/new", "lies in"),
    ],
)
def test_what_is_read_is_not_written_over(files, read, written, relation):
    with pytest.raises(ConfigError) as refused:
        refuse_overwriting([("--input", read)], [("--output", written)])
    line = str(refused.value)
    assert line.startswith(f"--output {written!r} {relation} --input {read!r}, which is read")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("read", "written"),
    [
        ("photos", "elsewhere"),
        ("photos", "photos2"),
        ("photos", "new/folder"),
        ("photos/more", "photos/other"),
        ("photos/a.jpg", "photos/b.png"),  # beside it
        ("photos/a.jpg", "photos/more/sheet.png"),
        ("results.json", "sheet.png"),
        ("missing.json", "missing.json"),
        ("https://server/weights.pth", "weights.pth"),
        (None, "sheet.png"),
        ("", "sheet.png"),
        ("photos", None),
    ],
)
def test_what_is_not_read_may_be_written(files, read, written):
    refuse_overwriting([("--input", read)], [("--output", written)])


def test_every_pair_is_looked_at(files):
    reads = [("--a", "elsewhere"), ("--b", "results.json")]
    with pytest.raises(ConfigError, match="^--second 'results.json' is also --b"):
        refuse_overwriting(reads, [("--first", "new"), ("--second", "results.json")])
