#!/usr/bin/env python
"""Draw one of the project's datasets, unless it is there already.

    draw_dataset.py sample     shapes on backgrounds of all kinds, for a first training
    draw_dataset.py context    strips whose classes can be told only from their far end

The folder holds images and their annotations in COCO's format; the same options give the same
files. Configs find it as aa_sample_train, aa_sample_val, aa_context_train and aa_context_val.
"""

import argparse
import sys

from aa_detection.data import DatasetError
from aa_detection.data.context import CONTEXT
from aa_detection.data.sample import SAMPLE

DATASETS = {dataset.name: dataset for dataset in (SAMPLE, CONTEXT)}


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__.replace("draw_dataset.py", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="where to write the folder aa_DATASET (default: $DETECTRON2_DATASETS, or datasets)",
    )
    parser.add_argument("--num-train", type=int, default=320, metavar="N")
    parser.add_argument("--num-val", type=int, default=80, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str = "draw_dataset.py") -> int:
    """Run the command line; the exit status is 2 for input that cannot be used."""
    args = parse_args(argv, prog)
    try:
        folder = DATASETS[args.dataset].write(
            args.root, num_train=args.num_train, num_val=args.num_val, seed=args.seed
        )
    except DatasetError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"{args.dataset} dataset: {args.num_train} + {args.num_val} images in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
