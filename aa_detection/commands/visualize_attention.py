"""Draw what each attention head looks at from chosen image points.

Writes NAME.html, a single-file page in which the mouse moves the point, and for each point
NAME_query_N.png, with a row per layer and a column per head.
"""

import argparse
from pathlib import Path

import numpy as np

from ..atomic_file import atomic_write
from ..config import ConfigError
from ..data import read_image
from ..engines import load_engine
from ..inference import look
from ..overwriting import refuse_overwriting
from ..visualization.attention_figure import attention_figure
from ..visualization.attention_maps import NoAttentionError
from ..visualization.attention_page import attention_page
from .arguments import ENGINE_OPTION, OVERRIDES, SCORE_OPTION, command_parser, path_word
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "visualize_attention.py", prog)
    parser.add_argument(
        "--input", required=True, type=path_word, metavar="IMAGE", help="image to analyze"
    )
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="a run's model_final.pth, which contains its config, or a YAML file",
    )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument(
        "--query",
        type=float,
        nargs=2,
        action="append",
        metavar=("X", "Y"),
        help="query point in image pixels; may be repeated (default: centres of the detections)",
    )
    parser.add_argument(
        "--score-threshold",
        **SCORE_OPTION,
        help="lowest score of the detections used as query points, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="text file with one class name per line, or a COCO annotation file",
    )
    parser.add_argument(
        "--output",
        type=path_word,
        default="output/attention",
        metavar="FOLDER",
        help="output folder (default: output/attention)",
    )
    parser.add_argument("opts", **OVERRIDES)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    engine = load_engine(args.engine)
    cfg = engine.load_config(args.config_file, args.opts)
    image = np.asarray(read_image(args.input))[:, :, ::-1]
    height, width = image.shape[:2]
    for x, y in args.query or ():
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(
                f"--query {x:g} {y:g} is outside {args.input}, {width} x {height} pixels"
            )
    detector = engine.load_detector(cfg, class_names=args.class_names)
    names = list(detector.categories.values())
    try:
        detections, attention = look(detector, image)
    except NoAttentionError as error:
        raise ConfigError(f"{args.config_file}: {error}") from None

    detections = detections.above(args.score_threshold)
    points = [tuple(point) for point in args.query or detections.centres()]
    print(f"{args.input}: {len(detections)} detections, {len(attention.layers)} attention layers")
    if not points:
        points = [(width / 2, height / 2)]
        print(f"nothing of a score of {args.score_threshold:g} to ask about: the picture's centre")

    folder, name = Path(args.output), Path(args.input).stem
    page_file = folder / f"{name}.html"
    figure_files = [folder / f"{name}_query_{i}.png" for i in range(1, len(points) + 1)]
    refuse_overwriting(
        [
            ("--input", args.input),
            ("--config-file", args.config_file),
            ("--class-names", args.class_names),
            ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS),
        ],
        [("--output", file) for file in (page_file, *figure_files)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    page = attention_page(image, attention, detections, names, args.query or (), name)
    with atomic_write(page_file, "w") as file:
        file.write(page)
    print(f"page: {page_file} ({len(page) / 1e6:.1f} MB)")
    figures = attention_figure(image, attention, points)
    for path, (x, y), figure in zip(figure_files, points, figures):
        with atomic_write(path) as file:
            figure.save(file, format="PNG", compress_level=1)
        print(f"query ({x:.0f}, {y:.0f}): {path}")


def main(argv: list[str] | None = None, prog: str = "visualize_attention.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    return run_command(prog, run, parse_args(argv, prog))
