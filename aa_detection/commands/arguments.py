"""Arguments shared by several commands."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..engines import ENGINES


def _device(text: str) -> str:
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("cuda asks for a GPU, and PyTorch finds none here")
    return text


def parse_size(text: str) -> tuple[int, int]:
    """Parse height and width from "HxW", as an option's `type`."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) * int(width)):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, got {text!r}")
    return int(height), int(width)


def share(text: str) -> float:
    """Parse a number from 0 to 1, as an option's `type`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:  # also refuses NaN
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return number


def path_word(text: str) -> str:
    """Refuse an empty path, which would mean the current folder, as an option's `type`."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, got an empty word")
    return text


# keyword arguments of ``add_argument``
DEVICE_OPTION: dict[str, Any] = {
    "type": _device,
    "default": "cpu",
    "metavar": "DEVICE",
    "help": "cpu, or cuda for the GPU (default: cpu)",
}
ENGINE_OPTION: dict[str, Any] = {
    "choices": ("auto", *ENGINES),
    "default": "auto",
    "help": "training framework; auto uses detectron2 if installed, otherwise torchvision "
    "(default: auto)",
}
SCORE_OPTION: dict[str, Any] = {"type": share, "default": 0.5, "metavar": "S"}
OVERRIDES: dict[str, Any] = {
    "nargs": argparse.REMAINDER,
    "metavar": "KEY VALUE",
    "help": "config overrides such as MODEL.DEVICE cpu; must come last",
}


def command_parser(doc: str, name: str, prog: str) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring, with `prog` in place of `name`."""
    return argparse.ArgumentParser(
        prog=prog,
        description=doc.replace(name, prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_own_data(parser: argparse._ActionsContainer) -> None:
    """Add ``--train-json``, ``--train-images``, ``--val-json`` and ``--val-images``."""
    for split in ("train", "val"):
        parser.add_argument(
            f"--{split}-json", type=path_word, metavar="FILE", help="annotations in COCO format"
        )
        parser.add_argument(
            f"--{split}-images",
            type=path_word,
            metavar="FOLDER",
            help=f"image folder of --{split}-json",
        )


def check_own_data(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse annotations without images and images without annotations."""
    for split in ("train", "val"):
        if bool(getattr(args, f"{split}_json")) != bool(getattr(args, f"{split}_images")):
            parser.error(f"--{split}-json and --{split}-images go together")


def add_run_options(parser: argparse.ArgumentParser, *, seeds: Sequence[int], work: str) -> None:
    """Add the options of a command that makes several trainings: seeds, jobs, folder, config keys.

    Args:
        seeds: default seeds.
        work: default folder.
    """
    listed = ",".join(map(str, seeds))
    parser.add_argument(
        "--seeds",
        type=_numbers,
        default=[*seeds],
        metavar="N,N",
        help=f"random seeds, one training each (default: {listed})",
    )
    parser.add_argument(
        "--jobs",
        type=positive_number,
        default=1,
        metavar="N",
        help="number of parallel runs (default: 1)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(work),
        metavar="FOLDER",
        help=f"folder for datasets, logs and checkpoints (default: {work})",
    )
    parser.add_argument("opts", **OVERRIDES)


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len({*map(int, words)}) < len(words):
        message = f"expected different whole numbers with commas between them, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return [int(word) for word in words]


def positive_number(text: str) -> int:
    """Parse a whole number of at least 1, as an option's `type`."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return number
