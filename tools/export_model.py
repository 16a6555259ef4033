#!/usr/bin/env python
"""A trained detector's backbone and pyramid as a graph of ONNX or torch.export.

    export_model.py --config-file aa_retinanet_R50.yaml --format onnx --output backbone.onnx \\
        MODEL.WEIGHTS model_final.pth

The written file is compared with the network, at three sizes and on a padded batch, before it is
put in place. See docs/export.md.
"""

import argparse
import sys
from pathlib import Path

from aa_detection.config import ConfigError
from aa_detection.engines import ENGINES, load_engine
from aa_detection.export import FORMATS, DisagreementError, check_target, export_backbone


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__.replace("export_model.py", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML configuration")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    parser.add_argument("--engine", choices=("auto", *ENGINES), default="auto")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to override, at the end of the command",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str = "export_model.py") -> int:
    """Run the command line.

    Returns:
        2 for input that cannot be used, 1 where the file does not agree with the network.
    """
    args = parse_args(argv, prog)
    try:
        check_target(args.output, args.format)
        engine = load_engine(args.engine)
        cfg = engine.load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
        export_backbone(
            engine.load_model(cfg).backbone,
            args.output,
            args.format,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
            report=print,
        )
    except ConfigError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except DisagreementError as error:
        print(f"{prog}: {error}; nothing was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"{args.output}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
