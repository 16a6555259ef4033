#!/usr/bin/env python
"""Ground truth beside detections for a handful of images, in one picture.

    contact_sheet.py --dataset aa_sample_val --output sheet.png \\
        --detections output/inference/coco_instances_results.json

Each image twice: what is there at the left, what was found at the right.
"""

import argparse
import sys

from aa_detection.data import get_coco_dataset
from aa_detection.visualization.contact_sheet import write_contact_sheet


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__.replace("contact_sheet.py", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="such as aa_sample_val")
    parser.add_argument(
        "--detections", required=True, metavar="FILE", help="coco_instances_results.json of a run"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the PNG file to write")
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S")
    parser.add_argument("--max-images", type=int, default=12, metavar="N")
    parser.add_argument("--columns", type=int, default=3, metavar="N", help="pairs side by side")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str = "contact_sheet.py") -> int:
    """Run the command line; the exit status is 2 for input that cannot be used."""
    args = parse_args(argv, prog)
    try:
        dataset = get_coco_dataset(args.dataset)
        path = write_contact_sheet(
            args.output,
            dataset.annotation_file,
            dataset.image_root,
            args.detections,
            score_threshold=args.score_threshold,
            max_images=args.max_images,
            columns=args.columns,
        )
    except (OSError, ValueError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    print(f"contact sheet: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
