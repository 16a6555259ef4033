"""The command line that compares runs: its files, its grammar, and what mistakes print."""

import builtins
import json
from pathlib import Path

import pytest

from aa_detection.studies.simulation import simulate_annotations, simulate_detections

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {"comparison.json", "comparison.md", "metrics.png", "classes.png", "precision_recall.png"}


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("compare_runs").main


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("result files")
    content = simulate_annotations(30, 3, seed=0)
    (folder / "val.json").write_text(json.dumps(content))
    for name, skill in (("a", 0.8), ("b", 0.0)):
        for seed in range(2):
            detections = simulate_detections(
                content, seed + 10 * (name == "a"), skill=skill, per_image=10
            )
            (folder / f"{name}{seed}.json").write_text(json.dumps(detections))
    (folder / "copy of a0.json").write_bytes((folder / "a0.json").read_bytes())
    for name in ("empty", "empty too"):
        (folder / f"{name}.json").write_text("[]")
    (folder / "broken.json").write_text("[{")
    other = {**content, "images": content["images"][:3], "annotations": []}
    (folder / "other.json").write_text(json.dumps(other))
    return folder


@pytest.fixture
def command(main, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)

    def _command(*words, annotations="val.json", output=tmp_path / "out put"):
        options = ["--annotations", annotations, "--resamples", "100", "--output", str(output)]
        return main([*words, *options])

    return _command


def test_two_files(command, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert command("a0.json", "b0.json", "--published", "aa_retinanet_R50") == 0
    out = capsys.readouterr().out
    assert "A better than B by" in out and "Published: +1.40 AP" in out
    folder = tmp_path / "out put"
    assert {path.name for path in folder.iterdir()} == WRITTEN
    assert json.loads((folder / "comparison.json").read_text())["metrics"]["AP"]["low"] > 0
    assert (folder / "comparison.md").read_text() in out
    assert all(path.stat().st_size > 1000 for path in folder.glob("*.png"))


def test_several_runs_replace_what_is_there(command, tmp_path, capsys):
    folder = tmp_path / "out put"
    folder.mkdir()
    (folder / "comparison.md").write_text("of another day")
    (folder / "mine.txt").write_text("kept")
    words = ["b0.json", "b1.json", "vs", "a0.json", "a1.json", "--names", "plain", "AA"]
    assert command(*words) == 0
    assert "AA better than plain" in (folder / "comparison.md").read_text()
    assert (folder / "mine.txt").read_text() == "kept"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_options_between_the_files(main, files, tmp_path):
    words = [str(files / "a0.json"), "--annotations", str(files / "val.json")]
    words += [str(files / "empty.json"), "--resamples", "100", "--output", str(tmp_path)]
    assert main(words) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["metrics"]["AP"]["b"] == 0


def test_runs_that_found_nothing_are_alike_and_still_two(command, tmp_path):
    words = ["empty.json", "empty too.json", "vs", "a0.json", "a1.json"]
    assert command(*words) == 0
    content = json.loads((tmp_path / "out put/comparison.json").read_text())
    assert content["metrics"]["AP"]["runs_a"] == [0, 0]


def test_without_matplotlib(command, tmp_path, capsys, monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert command("a0.json", "b0.json") == 0
    assert "aa_detection[plots]" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out put").iterdir()}
    assert names == {"comparison.json", "comparison.md"}


@pytest.mark.parametrize(
    ("words", "annotations", "parts"),
    [
        (["a0.json", "a0.json"], "val.json", ["a0.json", "same"]),
        (["a0.json", "./a0.json"], "val.json", ["a0.json", "same"]),
        (["a0.json", "copy of a0.json"], "val.json", ["copy of a0.json", "same"]),
        (["b0.json", "vs", "a0.json", "copy of a0.json"], "val.json", ["copy of a0.json"]),
        (["a0.json", "broken.json"], "val.json", ["broken.json", "not JSON"]),
        (["a0.json", "val.json"], "val.json", ["val.json", "no 'score'"]),
        (["a0.json", "nowhere.json"], "val.json", ["nowhere.json", "No such file"]),
        (["a0.json", "b0.json"], "nowhere.json", ["nowhere.json", "does not exist"]),
        (["a0.json", "b0.json"], "a1.json", ["a1.json", "not in COCO's format"]),
        (["a0.json", "b0.json"], "other.json", ["a0.json", "image_id", "annotations"]),
    ],
)
def test_wrong_files(command, tmp_path, capsys, words, annotations, parts):
    assert command(*words, annotations=annotations) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("compare_runs.py: ") and all(part in line for part in parts), line
    assert not list(tmp_path.iterdir()) and not printed.out


def test_an_output_that_cannot_be_written(command, files, capsys):
    assert command("a0.json", "b0.json", output=files / "val.json") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "val.json" in line and "--output" in line


@pytest.mark.parametrize("number", ["99", "1000000000000", "-1"])
def test_resamples_out_of_range(main, capsys, number):
    with pytest.raises(SystemExit) as exit_info:
        main(["a.json", "b.json", "--annotations", "val.json", "--resamples", number])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.endswith(f"and a --seed of at least 0, got {number} and 0\n")


def test_names_are_no_mathematics(command, tmp_path):
    """A dollar sign would have matplotlib read them so, and end in its parser's traceback."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    content = json.loads(Path("val.json").read_text())
    content["categories"][0]["name"] = r"$\frac{$"
    (tmp_path / "val.json").write_text(json.dumps(content))
    names = ("--names", r"$\sqrt{$", r"$_$")
    assert command("a0.json", "b0.json", *names, annotations=str(tmp_path / "val.json")) == 0
    assert {path.name for path in (tmp_path / "out put").iterdir()} == WRITTEN


@pytest.mark.parametrize(
    "words",
    [
        ["a0.json"],
        ["a0.json", "b0.json", "b1.json"],
        ["a0.json", "vs"],
        ["vs", "b0.json", "a0.json"],
        ["a0.json", "vs", "b0.json", "vs", "b1.json"],
    ],
)
def test_wrong_grammar(command, capsys, words):
    with pytest.raises(SystemExit) as exit_info:
        command(*words)
    assert exit_info.value.code == 2
    assert "vs" in capsys.readouterr().err
