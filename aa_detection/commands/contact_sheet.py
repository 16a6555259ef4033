"""Draw ground truth beside detections in one picture, for a handful of images.

    contact_sheet.py --dataset aa_sample_val --output sheet.png \\
        --detections output/inference/coco_instances_results.json

Each image appears twice: ground truth on the left, detections on the right.
"""

import argparse

from ..data import get_coco_dataset
from ..overwriting import refuse_overwriting
from ..visualization.contact_sheet import write_contact_sheet
from .arguments import SCORE_OPTION, command_parser, path_word
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "contact_sheet.py", prog)
    parser.add_argument(
        "--dataset", required=True, metavar="NAME", help="registered dataset, such as aa_sample_val"
    )
    parser.add_argument(
        "--detections", required=True, metavar="FILE", help="a run's coco_instances_results.json"
    )
    parser.add_argument(
        "--output", required=True, type=path_word, metavar="FILE", help="PNG file to write"
    )
    parser.add_argument(
        "--score-threshold",
        **SCORE_OPTION,
        help="lowest score of the detections shown, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=12,
        metavar="N",
        help="maximum number of images (default: 12)",
    )
    parser.add_argument(
        "--columns", type=int, default=3, metavar="N", help="image pairs per row (default: 3)"
    )
    args = parser.parse_args(argv)
    if min(args.max_images, args.columns) < 1:
        parser.error(
            f"--max-images and --columns must be at least 1, got {args.max_images} and "
            f"{args.columns}"
        )
    return args


def run(args: argparse.Namespace) -> None:
    dataset = get_coco_dataset(args.dataset)
    refuse_overwriting(
        [
            ("--detections", args.detections),
            (f"the annotations of {args.dataset}", dataset.annotation_file),
            (f"the images of {args.dataset}", dataset.image_root),
        ],
        [("--output", args.output)],
    )
    path = write_contact_sheet(
        args.output,
        dataset.annotation_file,
        dataset.image_root,
        args.detections,
        score_threshold=args.score_threshold,
        max_images=args.max_images,
        columns=args.columns,
    )
    print(f"contact sheet: {path}")


def main(argv: list[str] | None = None, prog: str = "contact_sheet.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    return run_command(prog, run, parse_args(argv, prog))
