"""Convert weights from one framework's names or file format to another.

    convert_weights.py resnet50.pth R-50.safetensors

Reads what training reads: torchvision's ResNets and RetinaNets, detectron2's zoo, and checkpoints
of either engine, as .pth, .ckpt, .safetensors or .pkl. Writes only the weights, as .pth or
.safetensors depending on OUTPUT's suffix. The engines need no conversion; other programs may.
"""

import argparse

from ..checkpoints import convert, read_checkpoint, write_weights
from ..checkpoints.converting import LAYOUTS
from ..overwriting import refuse_overwriting
from .arguments import command_parser
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "convert_weights.py", prog)
    parser.add_argument(
        "input", metavar="INPUT", help="weights file, or its https:// or detectron2:// URL"
    )
    parser.add_argument("output", metavar="OUTPUT", help=".pth or .safetensors file to write")
    parser.add_argument(
        "--to",
        choices=LAYOUTS,
        default="detectron2",
        help="tensor names to write; this project uses detectron2's (default: detectron2)",
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read a .pkl file; only arrays are accepted from it, since a pickle can run code",
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    refuse_overwriting([("INPUT", args.input)], [("OUTPUT", args.output)])
    checkpoint = read_checkpoint(args.input, allow_pickle=args.allow_pickle)
    weights, about = convert(checkpoint, args.to)
    write_weights(args.output, weights, about)
    print(
        f"{args.output}: {len(weights)} tensors, {sum(w.numel() for w in weights.values()):,} "
        f"numbers, by {args.to}'s names (the input has {checkpoint.layout}'s)"
    )


def main(argv: list[str] | None = None, prog: str = "convert_weights.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, interrupted="interrupted; nothing was written")
