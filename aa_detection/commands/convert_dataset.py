"""Convert a Pascal VOC or YOLO folder to a COCO annotation file.

    convert_dataset.py voc --images JPEGImages --annotations Annotations \\
        --image-set ImageSets/Main/train.txt --output train.json
    convert_dataset.py yolo --images images/train --annotations labels/train \\
        --names data.yaml --output train.json

The file is checked before it is put in place. Pascal VOC has no list of its classes: if training
and validation data contain different ones, name them all with --classes.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..data.conversion import convert_voc, convert_yolo
from ..overwriting import refuse_overwriting
from .arguments import command_parser
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "convert_dataset.py", prog)
    formats = parser.add_subparsers(dest="format", required=True)
    for name in ("voc", "yolo"):
        options = formats.add_parser(name)
        options.add_argument(
            "--images",
            type=Path,
            required=True,
            metavar="FOLDER",
            help="image folder; images without annotations are included",
        )
        options.add_argument(
            "--annotations",
            type=Path,
            required=True,
            metavar="FOLDER",
            help="annotation folder with one file per image, of the same name",
        )
        options.add_argument(
            "--output",
            type=Path,
            required=True,
            metavar="FILE",
            help="COCO annotation file to write",
        )
        if name == "voc":
            options.add_argument(
                "--image-set",
                type=Path,
                metavar="FILE",
                help="list of the images to include (default: all)",
            )
            options.add_argument(
                "--classes",
                nargs="+",
                default=(),
                metavar="NAME",
                help="all class names, in order (default: the classes found, sorted)",
            )
        else:
            options.add_argument(
                "--names",
                type=Path,
                required=True,
                metavar="FILE",
                help="YAML file with the class names",
            )
    return parser.parse_args(argv)


def run(format: str, **options: Any) -> None:
    read = ("images", "annotations", "image_set", "names")
    refuse_overwriting(
        [(f"--{option.replace('_', '-')}", options.get(option)) for option in read],
        [("--output", options["output"])],
    )
    report = convert_voc(**options) if format == "voc" else convert_yolo(**options)
    summary = report.summary
    assert summary is not None  # without one it would have been refused
    print(
        f"{report.dataset.annotation_file}: {summary.images} images, {summary.annotations} "
        f"annotations, {len(summary.category_ids)} categories: {', '.join(summary.category_names)}"
    )
    for finding in report.warnings:
        print(f"warning: {finding}")


def main(argv: list[str] | None = None, prog: str = "convert_dataset.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    command = partial(run, **vars(parse_args(argv, prog)))
    return run_command(prog, command, interrupted="interrupted; nothing was written")
