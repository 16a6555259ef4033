"""docs/reproducing.md: its commands, as they stand there, at toy scale."""

import glob
import importlib.util
import json
import re
from pathlib import Path

import pytest

from .programs import perform
from .shell import run_shell
from .toy import ROOT

PAGE = (ROOT / "docs/reproducing.md").read_text(encoding="utf-8")


@pytest.fixture
def commands(world, tmp_path):
    """Every command of the page, as a shell has expanded it; none is performed."""
    recorded = []

    def record(words, folder, environment):
        recorded.append(words[1:])
        return 0, "", ""

    script = "\n".join(re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    status, printed = run_shell(script, tmp_path, record, programs=["python"])
    assert status == 0, printed
    return recorded


@pytest.fixture
def perform_here(world, tmp_path):
    """Runs one command of the page in `tmp_path`; returns its exit status and what it printed."""
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / "configs").symlink_to(ROOT / "configs")

    def _perform(*words):
        # what the shell would expand, had the training been before it
        expanded = [
            sorted(glob.glob(word, root_dir=tmp_path)) if "*" in word else [word] for word in words
        ]
        assert all(expanded)
        return perform(["python", *(word for each in expanded for word in each)], str(tmp_path), {})

    return _perform


def option(words, name):
    return words[words.index(name) + 1]


def test_the_page_has_the_papers_table(commands):
    training = [words for words in commands if words[0] == "tools/train_net.py"]
    outputs = {option(words, "OUTPUT_DIR") for words in training}
    assert len(outputs) == len(training) == 2 * 3 * 3 + 2 * 3 + 1
    for words in training:
        config = ROOT / option(words, "--config-file")
        assert config.exists()
        assert Path(option(words, "OUTPUT_DIR")).name == f"seed{option(words, 'SEED')}"
    compared = [words for words in commands if words[0] == "tools/compare_runs.py"]
    assert [option(words, "--names") for words in compared] == ["AA", "AA", "AA", "AA", "AW"]
    # what is compared is what was trained
    for words in compared:
        for pattern in (word for word in words if "*" in word):
            folder = pattern.removesuffix("seed*/inference/coco_instances_results.json")
            assert {f"{folder}seed{seed}" for seed in (1, 2, 3)} <= outputs


def dry_run(commands, perform_here, folder, kept):
    """Trains what is kept, then compares it."""
    performed = [words for words in commands if kept(words)]
    for words in performed:
        status, *printed = perform_here(*words)
        assert status == 0, (words, printed)
    for words in performed:
        if words[0] == "tools/compare_runs.py":
            written = folder / option(words, "--output") / "comparison.json"
            content = json.loads(written.read_text())
            assert content["covers_training"]
            assert content["metrics"]["AP"]["low"] is not None
            assert bool(content["published"]) == ("--published" in words)


def test_two_seeds_of_two_arms(commands, perform_here, tmp_path):
    def kept(words):
        if words[0] == "tools/compare_runs.py":
            return option(words, "--output").endswith("aa_plain_R50")
        output = option(words, "OUTPUT_DIR")
        return re.fullmatch(r"output/(aa_)?retinanet_R50_scratch_150ep/seed[12]", output)

    dry_run(commands, perform_here, tmp_path, kept)


@pytest.mark.slow
def test_the_whole_page(commands, perform_here, tmp_path):
    without = importlib.util.find_spec("detectron2") is None
    dry_run(
        commands,
        perform_here,
        tmp_path,
        lambda words: not (without and "faster_rcnn" in " ".join(words)),
    )
