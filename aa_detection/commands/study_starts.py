"""Measure how much of a detector's AP each way to add attention keeps.

    study_starts.py --config-file configs/gains/sample_R18.yaml MODEL.WEIGHTS plain/model_final.pth

Adds attention to a plain detector in several ways, starting from its weights, with frozen norms,
under each padding mask, and evaluates before the first step and after a few. Each row is saved to
``--record`` at once; repeat the command to continue with the next. Prints the table at the end.
"""

import argparse
from pathlib import Path

from ..engines import engine_name, load_engine
from ..overwriting import refuse_overwriting
from ..studies.starts import Study
from .arguments import ENGINE_OPTION, OVERRIDES, command_parser, positive_number
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "study_starts.py", prog)
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="config of the plain detector"
    )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument(
        "--steps",
        type=positive_number,
        default=50,
        metavar="N",
        help="fine-tuning steps (default: 50)",
    )
    parser.add_argument(
        "--record",
        type=Path,
        default=Path("docs/starts/rows.json"),
        metavar="FILE",
        help="file for the measured rows (default: docs/starts/rows.json)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("output/starts"),
        metavar="FOLDER",
        help="folder for logs and checkpoints (default: output/starts)",
    )
    parser.add_argument("opts", **OVERRIDES)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    study = Study(
        load_engine(engine_name(args.engine)),
        args.config_file,
        args.opts,
        steps=args.steps,
        work=args.work,
        record=args.record,
    )
    refuse_overwriting(
        [("--config-file", args.config_file), ("MODEL.WEIGHTS", study.plain.MODEL.WEIGHTS)],
        [("--record", args.record), ("--work", args.work)],
    )
    study.complete(report=lambda line: print(line, flush=True))
    print("\n".join(study.table()))


def main(argv: list[str] | None = None, prog: str = "study_starts.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    interrupted = "interrupted; the same command continues"
    return run_command(prog, run, args, interrupted=interrupted)
