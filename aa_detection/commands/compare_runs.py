"""Does one detector beat another? A paired comparison on the same annotations.

    compare_runs.py A.json B.json --annotations val.json
    compare_runs.py a_seed*.json vs b_seed*.json --annotations val.json

Result files are the inference/coco_instances_results.json of runs. With several runs of each, with
different seeds, it compares the methods; with one of each, these two detectors. Prints the verdict
and the tables, and writes comparison.json, comparison.md and plots into --output.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

from ..comparison import PUBLISHED, Comparison, compare
from ..comparison.plots import PLOTS, write_comparison_plots
from ..data import DatasetError
from ..overwriting import refuse_overwriting
from .arguments import command_parser
from .ending import run_command

SEPARATOR = "vs"
MOST_RESAMPLES = 100_000  # the intervals have converged by then, and memory grows
JSON, MARKDOWN = "comparison.json", "comparison.md"


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "compare_runs.py", prog)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="FILE",
        help=f"result files of A, {SEPARATOR}, and result files of B; "
        f"{SEPARATOR} is optional between two files",
    )
    parser.add_argument(
        "--annotations", required=True, metavar="FILE", help="annotations in COCO format"
    )
    parser.add_argument(
        "--names",
        nargs=2,
        default=("A", "B"),
        metavar=("A", "B"),
        help="labels in the tables (default: A B)",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        metavar="N",
        help="number of bootstrap resamples of the images (default: 1000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the resamples (default: 0)"
    )
    parser.add_argument(
        "--published",
        choices=PUBLISHED,
        metavar="CONFIG",
        help="also show the paper's gain of A over its baseline, one of: " + ", ".join(PUBLISHED),
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/comparison"),
        metavar="DIR",
        help="output folder (default: output/comparison)",
    )
    args = parser.parse_intermixed_args(argv)
    if SEPARATOR in args.runs:
        at = args.runs.index(SEPARATOR)
        args.a, args.b = args.runs[:at], args.runs[at + 1 :]
    else:
        args.a, args.b = args.runs[:1], args.runs[1:]
    if not args.a or not args.b or (len(args.runs) > 2 and SEPARATOR not in args.runs):
        parser.error(f"expected two result files, or A1 A2 ... {SEPARATOR} B1 B2 ...")
    if SEPARATOR in args.b:
        parser.error(f"expected {SEPARATOR} once: two arms are compared")
    if not 100 <= args.resamples <= MOST_RESAMPLES or args.seed < 0:
        parser.error(
            f"expected --resamples from 100 to {MOST_RESAMPLES} and a --seed of at least 0, got "
            f"{args.resamples} and {args.seed}"
        )
    return args


def write(comparison: Comparison, folder: Path) -> None:
    """Write all files next to `folder` first, so that it never holds only some of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".comparison.", dir=folder) as unfinished:
        written = Path(unfinished)
        (written / JSON).write_text(comparison.to_json(), encoding="utf-8")
        (written / MARKDOWN).write_text(comparison.to_markdown(), encoding="utf-8")
        try:
            write_comparison_plots(comparison, written)
        except ImportError:
            print("no plots: they need matplotlib (pip install 'aa_detection[plots]')")
        for file in written.iterdir():
            file.replace(folder / file.name)


def run(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    refuse_overwriting(
        [
            *(("result file", path) for path in (*args.a, *args.b)),
            ("--annotations", args.annotations),
        ],
        [("--output", args.output / name) for name in (JSON, MARKDOWN, *PLOTS)],
    )
    _check_writable(args.output)
    comparison = compare(
        args.annotations,
        args.a,
        args.b,
        names=tuple(args.names),
        resamples=args.resamples,
        seed=args.seed,
        published=PUBLISHED.get(args.published),
    )
    write(comparison, args.output)
    print(comparison.to_markdown())
    print(f"written to {args.output}")


def _check_writable(folder: Path) -> None:
    """Check before the work instead of failing after it."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise DatasetError(f"--output {folder}: {existing} is not a folder that can be written to")


def main(argv: list[str] | None = None, prog: str = "compare_runs.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, interrupted="interrupted; nothing was written")
