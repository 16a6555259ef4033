"""Check correctness and speed of everything on this machine's NVIDIA GPU.

    check_cuda.py
    check_cuda.py --output docs/benchmark/h100

Compares every backend of the operator with the exact result, gradients included; measures time and
memory of the operator and of whole detectors, with plain ones for comparison; runs trainings in
half precision, resumed, and in a process group. Takes up to eight minutes. Writes JSON and text,
with a summary of what passed.
"""

import argparse
from pathlib import Path

import torch

from ..config import ConfigError
from ..studies.gpu.check import check, folder_name
from .arguments import command_parser
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "check_cuda.py", prog)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="output folder (default: docs/benchmark/<the GPU's name>)",
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        raise ConfigError("this needs an NVIDIA GPU, and PyTorch finds none here")
    output = args.output or Path("docs/benchmark") / folder_name(torch.cuda.get_device_name(0))
    right = check(output, "cuda")
    print(f"written to {output}")
    return 0 if right else 1


def main(argv: list[str] | None = None, prog: str = "check_cuda.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s, 1 if a check fails."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, interrupted="interrupted; whole sections are written")
