"""Export a trained detector or its backbone to ONNX or torch.export.

    export_model.py --config-file aa_retinanet_R50.yaml --format onnx --output backbone.onnx \\
        MODEL.WEIGHTS model_final.pth
    export_model.py --config-file model_final.pth --format onnx --detector --output detector.onnx

The written file is compared with the network, at three sizes, before it is put in place. See
docs/export.md.
"""

import argparse
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from ..config import ConfigError
from ..engines import Engine, load_engine
from ..export import (
    FORMATS,
    DisagreementError,
    check_detector,
    check_target,
    export_backbone,
    export_detector,
)
from ..overwriting import refuse_overwriting
from ..training.failures import RunError
from .arguments import ENGINE_OPTION, OVERRIDES, command_parser
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "export_model.py", prog)
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="a run's model_final.pth, which carries its config, or a YAML file",
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the file")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="to write; an existing one is replaced",
    )
    parser.add_argument(
        "--detector",
        action="store_true",
        help="the whole RetinaNet, from a uint8 image to boxes, scores and classes; ONNX only",
    )
    parser.add_argument(
        "--no-nms",
        action="store_true",
        help="with --detector: boxes and scores of all anchors, for your own suppression",
    )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument("opts", **OVERRIDES)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    if args.no_nms and not args.detector:
        raise ConfigError("--no-nms: expected with --detector; a backbone has no suppression")
    if args.detector and args.format != "onnx":
        raise ConfigError(f"--detector: expected --format onnx, got --format {args.format}")
    check_target(args.output, args.format)
    engine = load_engine(args.engine)
    cfg = engine.load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    if args.detector:
        check_detector(cfg)
    refuse_overwriting(
        [("--config-file", args.config_file), ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)],
        [("--output", args.output)],
    )
    try:
        if args.detector:
            _export_detector(engine, cfg, args)
        else:
            _export_backbone(engine, cfg, args)
    except DisagreementError as error:
        raise RunError(f"{error}; nothing was written") from None
    print(f"{args.output}: written")


def _export_backbone(engine: Engine, cfg: CfgNode, args: argparse.Namespace) -> None:
    export_backbone(
        engine.load_model(cfg).get_submodule("backbone"),
        args.output,
        args.format,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        input_format=cfg.INPUT.FORMAT,
        report=print,
    )


def _export_detector(engine: Engine, cfg: CfgNode, args: argparse.Namespace) -> None:
    compared = cfg.clone()  # neither resizes nor leaves out low scores
    compared.defrost()
    compared.INPUT.MIN_SIZE_TEST = 0
    compared.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    detector = engine.load_detector(compared)

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (found,) = detector([image[:, :, ::-1]])
        return found.boxes, found.scores, found.classes

    export_detector(
        detector.model,
        cfg,
        args.output,
        detect=detect,
        categories=detector.categories,
        suppress=not args.no_nms,
        report=print,
    )


def main(argv: list[str] | None = None, prog: str = "export_model.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, interrupted="interrupted; nothing was written")
