"""The programs that documents call, performed in this process."""

import contextlib
import importlib
import importlib.util
import io
import itertools
import os
import re
import subprocess
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from .toy import ROOT, SMALLER, forget_datasets

# what a program is given after its own words
SMALLER_WORDS = {
    "examples/detectron2_project/train.py": [*map(str, itertools.chain(*SMALLER.items()))],
    "examples/lazyconfig/lazyconfig_train_net.py": [
        "train.max_iter=1",
        "train.device=cpu",
        "train.init_checkpoint=''",
        "dataloader.train.total_batch_size=1",
        "dataloader.train.num_workers=0",
        "dataloader.train.mapper.augmentations.0.short_edge_length=64",
        "dataloader.test.num_workers=0",
        "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    ],
    "examples/torchvision_finetune.py": ["--steps", "1", "--image-size", "64"],
    "examples/train_classifier.py": [
        *("--epochs", "1", "--batch-size", "2", "--image-size", "32", "--workers", "0")
    ],
    "tools/benchmark.py": ["--sizes", "16x16"],
    "tools/compare_runs.py": ["--resamples", "100"],
}


def perform(words: list[str], folder: str, environment: dict[str, str]) -> tuple[int, str, str]:
    """One program's exit status, standard output and standard error."""
    if words[0] in UNPERFORMED:
        problem = UNPERFORMED[words[0]][1](words[1:])
        return (2, "", f"{words[0]}: {problem}\n") if problem else (0, "", "")
    if words[:2] in (["python", "-c"], ["python", "-"]):
        return 127, "", f"{' '.join(words[:2])}: not performed here; write a python block\n"
    forget_datasets()
    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        patch.chdir(folder)
        for name, value in environment.items():
            if name != "PATH" and os.environ.get(name) != value:
                patch.setenv(name, value)
        try:
            main, arguments = PERFORMED[words[0]](words[1:])
            status = main(arguments)
        except SystemExit as end:  # argparse
            status = end.code
        except Exception:
            traceback.print_exc()
            status = 1
    return status or 0, output.getvalue(), errors.getvalue()


Call = tuple[Callable[[list[str]], int], list[str]]


def _python(words: list[str]) -> Call:
    """``python FILE …`` and ``python -m MODULE …``."""
    if words[0] == "-m":
        if words[1] == "aa_detection":
            return _aa_detection(words[2:])
        return importlib.import_module(words[1]).main, words[2:]
    path, words = Path(words[0]).resolve(strict=True), words[1:]
    smaller = [words for name, words in SMALLER_WORDS.items() if path.match(f"*/{name}")]
    # of KEY=VALUE, what the document says stays
    given = {word.partition("=")[0] for word in words if "=" in word}
    after = [word for word in sum(smaller, []) if word.partition("=")[0] not in given]
    module = _load(path)
    if path.name == "analyze_model.py":  # every eighth network of --table
        command = importlib.import_module(module.main.__module__)
        networks = command.published_networks
        command.published_networks = lambda engine: networks(engine)[::8]
    return module.main, [*words, *after]


def _load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _torchrun(words: list[str]) -> Call:
    """One process in the place of torchrun's; its own options are checked by its own parser."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(words)
    script = ["-m"] * options.module + [options.training_script]
    return _python([*script, *options.training_script_args])


def _aa_detection(words: list[str]) -> Call:
    """``aa-detection COMMAND …`` is a program in tools/."""
    name = "train_net" if words[0] == "train" else words[0].replace("-", "_")
    return _python([str(ROOT / f"tools/{name}.py"), *words[1:]])


# ---- SLURM -----------------------------------------------------------------------------------

SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"}


def _srun(words: list[str]) -> Call:
    return PERFORMED[words[0]](words[1:])


def _scontrol(words: list[str]) -> Call:
    def main(words: list[str]) -> int:
        print("first-machine")
        return 0

    return main, words


PERFORMED = {
    "python": _python,
    "aa-detection": _aa_detection,
    "torchrun": _torchrun,
    "srun": _srun,
    "scontrol": _scontrol,
}


def _check_pip(words: list[str]) -> str | None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"\[(.*?)\]", " ".join(words)):
        for extra in extras.split(","):
            if not re.search(rf"^{extra} = \[", project, re.MULTILINE):
                return f"pyproject.toml has no extra {extra!r}"
    return None


def _check_make(words: list[str]) -> str | None:
    dry = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
    return dry.stderr or None if dry.returncode else None


def _check_pytest(words: list[str]) -> str | None:
    for word in words:
        path = word.partition("::")[0]
        if path.startswith("tests/") and not (ROOT / path).exists():
            return f"{path} does not exist"
    return None


# not run: why, and what is looked at instead; returns what is wrong
UNPERFORMED = {
    "pip": ("changes the environment that runs this", _check_pip),
    "make": ("sets up an environment, or runs this", _check_make),
    "pytest": ("runs this", _check_pytest),
}
