"""Draw one of the project's datasets, unless it exists already.

    draw_dataset.py sample     shapes on backgrounds of all kinds, for a first training
    draw_dataset.py context    strips whose classes can be told only from their far end

The folder holds images and their annotations in COCO's format; the same options give the same
files. Configs refer to them as aa_sample_train, aa_sample_val, aa_context_train and aa_context_val.
"""

import argparse

from ..data.synthetic.context import CONTEXT
from ..data.synthetic.sample import SAMPLE
from .arguments import command_parser
from .ending import run_command

DATASETS = {dataset.name: dataset for dataset in (SAMPLE, CONTEXT)}


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "draw_dataset.py", prog)
    parser.add_argument("dataset", choices=DATASETS, help="dataset to draw")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="parent of the folder aa_DATASET (default: $DETECTRON2_DATASETS, or datasets)",
    )
    parser.add_argument(
        "--num-train",
        type=int,
        default=320,
        metavar="N",
        help="number of training images (default: 320)",
    )
    parser.add_argument(
        "--num-val",
        type=int,
        default=80,
        metavar="N",
        help="number of validation images (default: 80)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the drawings (default: 0)"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    folder = DATASETS[args.dataset].write(
        args.root, num_train=args.num_train, num_val=args.num_val, seed=args.seed
    )
    print(f"{args.dataset} dataset: {args.num_train} + {args.num_val} images in {folder}")


def main(argv: list[str] | None = None, prog: str = "draw_dataset.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, interrupted="interrupted; nothing was written")
