"""docs/reproducing.md: its commands, as they stand there, at toy scale."""

import glob
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT
from .test_every_config import RCNN, RETINANET, SHRINK

PAGE = (ROOT / "docs/reproducing.md").read_text(encoding="utf-8")
# in the place of python: writes down what it was called with
RECORDER = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["RECORDED"], "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
"""


@pytest.fixture
def commands(tmp_path, sample_dataset):
    """Every command of the page, as a shell has expanded it."""
    coco = tmp_path / "data sets/coco/annotations"
    coco.mkdir(parents=True)
    shutil.copy(sample_dataset / "annotations/val.json", coco / "instances_val2017.json")
    recorder = tmp_path / "bin/python"
    recorder.parent.mkdir()
    recorder.write_text(RECORDER)
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    environment = {
        **os.environ,
        "PATH": f"{recorder.parent}{os.pathsep}{os.environ['PATH']}",
        "RECORDED": str(tmp_path / "recorded"),
        "DETECTRON2_DATASETS": str(tmp_path / "data sets"),
    }
    subprocess.run(["bash", "-euc", script], check=True, env=environment, cwd=tmp_path)
    return [json.loads(line) for line in (tmp_path / "recorded").open()]


@pytest.fixture
def perform(tmp_path, monkeypatch):
    """Runs one command of the page in `tmp_path`, training shrunk; returns its exit status."""
    monkeypatch.chdir(tmp_path)

    def _perform(tool, *words):
        spec = importlib.util.spec_from_file_location(Path(tool).stem, ROOT / tool)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if tool != "tools/train_net.py":
            # what the shell would expand, had the training been before it
            expanded = [sorted(glob.glob(word)) if "*" in word else [word] for word in words]
            assert all(expanded)
            return module.main([*(word for each in expanded for word in each)])
        words = list(words)
        config = words[words.index("--config-file") + 1]
        words[words.index("--config-file") + 1] = str(ROOT / config)
        words[words.index("--num-gpus") + 1] = "1"
        norm = ["MODEL.RESNETS.NORM", "BN"]
        return module.main([*words, *SHRINK, *(RCNN if "rcnn" in config else RETINANET), *norm])

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


def dry_run(commands, perform, kept):
    """Trains what is kept, then compares it."""
    performed = [words for words in commands if kept(words)]
    for words in performed:
        assert perform(*words) == 0, words
    for words in performed:
        if words[0] == "tools/compare_runs.py":
            content = json.loads((Path(option(words, "--output")) / "comparison.json").read_text())
            assert content["covers_training"]
            assert content["metrics"]["AP"]["low"] is not None
            assert bool(content["published"]) == ("--published" in words)


def test_two_seeds_of_two_arms(commands, perform):
    def kept(words):
        if words[0] == "tools/compare_runs.py":
            return option(words, "--output").endswith("aa_plain_R50")
        output = option(words, "OUTPUT_DIR")
        return re.fullmatch(r"output/(aa_)?retinanet_R50_scratch_150ep/seed[12]", output)

    dry_run(commands, perform, kept)


@pytest.mark.slow
def test_the_whole_page(commands, perform):
    without = importlib.util.find_spec("detectron2") is None
    dry_run(commands, perform, lambda words: not (without and "faster_rcnn" in " ".join(words)))
