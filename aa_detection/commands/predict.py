"""Detect objects in images, folders of images, videos or a webcam stream.

Writes annotated copies and detections.json, a dataset in COCO's format with scores.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from tqdm import tqdm

from ..data import DatasetError
from ..engines import load_engine
from ..inference.predictions import Predictions, predict
from ..inference.sources import find_sources
from ..overwriting import refuse_overwriting
from .arguments import ENGINE_OPTION, OVERRIDES, SCORE_OPTION, command_parser, path_word
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "predict.py", prog)
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        type=path_word,
        metavar="PATH",
        help="images, folders, videos, or a webcam's number; Ctrl-C stops a webcam",
    )
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="a run's model_final.pth, which contains its config, or a YAML file",
    )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument(
        "--output",
        type=path_word,
        default="output/predictions",
        metavar="FOLDER",
        help="folder for annotated copies and detections.json (default: output/predictions)",
    )
    parser.add_argument(
        "--score-threshold",
        **SCORE_OPTION,
        help="lowest score of the detections kept, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=4, metavar="N", help="images per batch (default: 4)"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute in bfloat16: faster on CPUs that support it, less exact; see docs/export.md",
    )
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="text file with one class name per line, or a COCO annotation file",
    )
    parser.add_argument("opts", **OVERRIDES)
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    return args


def run(args: argparse.Namespace, prog: str) -> int:
    """Return 0, 1 if sources were skipped, 130 after an interrupt."""
    sources = find_sources(args.input)
    engine = load_engine(args.engine)
    cfg = engine.load_config(args.config_file, args.opts)
    # copies keep their originals' names; links in a folder point outside it
    links = [("--input", source.name) for source in sources if os.path.islink(source.name)]
    refuse_overwriting(
        [*(("--input", word) for word in args.input), *links], [("--output", args.output)]
    )
    copies = (source.output for source in sources)
    refuse_overwriting(
        [
            ("--config-file", args.config_file),
            ("--class-names", args.class_names),
            ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS),
        ],
        [("--output", Path(args.output) / name) for name in (Path("detections.json"), *copies)],
    )
    detector = engine.load_detector(cfg, bfloat16=args.bfloat16, class_names=args.class_names)
    predictions = Predictions(detector.categories)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    live = any(source.kind == "webcam" for source in sources)
    total = None if live else sum(source.count() for source in sources)
    interrupted = False
    with tqdm(total=total, unit="picture", disable=None) as progress:
        try:
            predict(
                detector,
                sources,
                folder,
                predictions,
                score_threshold=args.score_threshold,
                batch_size=args.batch_size,
                on_picture=progress.update,
            )
        except KeyboardInterrupt:
            interrupted = True
    if predictions.skipped and not predictions.images and not interrupted:
        with contextlib.suppress(OSError):  # it held something before
            folder.rmdir()
        first, *others = predictions.skipped
        raise DatasetError(f"{first}; {len(others)} more cannot be read" if others else first)
    predictions.write(folder / "detections.json")
    print(f"{predictions.summary()}\nwritten to {folder}")
    for line in predictions.skipped:
        print(f"{prog}: skipped: {line}", file=sys.stderr)
    if interrupted and not live:  # a webcam can only be interrupted
        print(f"{prog}: interrupted; written is what was done", file=sys.stderr)
        return 130
    return 1 if predictions.skipped else 0


def main(argv: list[str] | None = None, prog: str = "predict.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    return run_command(prog, run, parse_args(argv, prog), prog)
