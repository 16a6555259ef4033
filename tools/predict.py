#!/usr/bin/env python
"""Detect objects in images, folders of them, videos, or before a webcam.

Writes annotated copies and detections.json, a dataset in COCO's format with scores.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from aa_detection.config import ConfigError
from aa_detection.data import DatasetError
from aa_detection.engines import ENGINES, load_engine
from aa_detection.evaluation.categories import find_categories
from aa_detection.visualization.predictions import Predictions, predict
from aa_detection.visualization.sources import find_sources


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images, folders, videos, or the number of a webcam, which Ctrl-C ends",
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="such as a run's config.yaml"
    )
    parser.add_argument("--engine", choices=("auto", *ENGINES), default="auto")
    parser.add_argument("--output", default="predictions", metavar="FOLDER")
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N")
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="faster and less exact, on a processor that computes in bfloat16; see docs/export.md",
    )
    parser.add_argument(
        "--class-names", metavar="FILE", help="a name a line, or a COCO annotation file"
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to override at the end of the command: MODEL.WEIGHTS, MODEL.DEVICE, …",
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    return args


def run(args: argparse.Namespace, prog: str) -> int:
    """0, 1 where sources were skipped, 130 after an interrupt."""
    sources = find_sources(args.input)
    engine = load_engine(args.engine)
    cfg = engine.load_config(args.config_file, args.opts)
    predictions = Predictions(find_categories(cfg, args.class_names))
    detector = engine.load_detector(cfg, bfloat16=args.bfloat16)
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
    predictions.write(folder / "detections.json")
    print(f"{predictions.summary()}\nwritten to {folder}")
    for line in predictions.skipped:
        print(f"{prog}: skipped: {line}", file=sys.stderr)
    if interrupted and not live:  # a webcam ends in no other way
        print(f"{prog}: interrupted; written is what was done", file=sys.stderr)
        return 130
    return 1 if predictions.skipped else 0


def main(argv: list[str] | None = None, prog: str = "predict.py") -> int:
    """Run the command line; the exit status is 2 for input that cannot be used."""
    args = parse_args(argv, prog)
    try:
        return run(args, prog)
    except (ConfigError, DatasetError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{prog}: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
