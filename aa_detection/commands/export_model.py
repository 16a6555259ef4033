"""Export a trained detector's backbone and pyramid to ONNX or torch.export.

    export_model.py --config-file aa_retinanet_R50.yaml --format onnx --output backbone.onnx \\
        MODEL.WEIGHTS model_final.pth

The written file is compared with the network, at three sizes and on a padded batch, before it is
put in place. See docs/export.md.
"""

import argparse
from pathlib import Path

from ..engines import load_engine
from ..export import FORMATS, DisagreementError, check_target, export_backbone
from ..overwriting import refuse_overwriting
from ..training.failures import RunError
from .arguments import ENGINE_OPTION, OVERRIDES
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__.replace("export_model.py", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument("opts", **OVERRIDES)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    check_target(args.output, args.format)
    engine = load_engine(args.engine)
    cfg = engine.load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    refuse_overwriting(
        [("--config-file", args.config_file), ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)],
        [("--output", args.output)],
    )
    try:
        export_backbone(
            engine.load_model(cfg).get_submodule("backbone"),
            args.output,
            args.format,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
            report=print,
        )
    except DisagreementError as error:
        raise RunError(f"{error}; nothing was written") from None
    print(f"{args.output}: written")


def main(argv: list[str] | None = None, prog: str = "export_model.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, interrupted="interrupted; nothing was written")
