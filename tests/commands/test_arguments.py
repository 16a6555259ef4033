"""What options of several commands take."""

import argparse
import math

import pytest

from aa_detection.commands.arguments import path_word, share

WITH_A_THRESHOLD = {
    "predict": ["--input", "a.jpg", "--config-file", "a.yaml"],
    "contact_sheet": ["--dataset", "a", "--detections", "a.json", "--output", "a.png"],
    "report": ["run"],
    "visualize_attention": ["--input", "a.jpg", "--config-file", "a.yaml"],
}
WITH_A_PATH = [
    ("predict", ["--input", "", "--config-file", "a.yaml"]),
    ("predict", ["--input", "a.jpg", " ", "--config-file", "a.yaml"]),
    ("predict", ["--input", "a.jpg", "--output", "", "--config-file", "a.yaml"]),
    ("visualize_attention", ["--input", "", "--config-file", "a.yaml"]),
    ("visualize_attention", ["--input", "a.jpg", "--output", "", "--config-file", "a.yaml"]),
    ("contact_sheet", ["--dataset", "a", "--detections", "a.json", "--output", ""]),
    ("report", [""]),
    ("train_net", ["--config-file", "a.yaml", "--train-json", "", "--train-images", ""]),
    ("check_dataset", ["--val-json", "a.json", "--val-images", ""]),
]


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("1", 1), ("0.5", 0.5), ("1e-3", 0.001)])
def test_a_share(text, number):
    assert math.isclose(share(text), number)


@pytest.mark.parametrize(
    "text", ["nan", "-nan", "inf", "-inf", "2", "7", "1.0001", "-1e-9", "half", "", "50%"]
)
def test_what_is_no_share(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number from 0 to 1, got "):
        share(text)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_what_is_no_path(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a path"):
        path_word(text)


@pytest.mark.parametrize("threshold", ["nan", "2", "-1"])
@pytest.mark.parametrize("name", WITH_A_THRESHOLD)
def test_a_threshold_is_from_0_to_1(load_tool, capsys, name, threshold):
    words = [*WITH_A_THRESHOLD[name], f"--score-threshold={threshold}"]
    with pytest.raises(SystemExit) as end:
        load_tool(name).main(words)
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"must be a number from 0 to 1, got '{threshold}'")


@pytest.mark.parametrize(("name", "words"), WITH_A_PATH)
def test_an_empty_word_is_no_path(load_tool, capsys, name, words):
    with pytest.raises(SystemExit) as end:
        load_tool(name).main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("expected a path, got an empty word")
