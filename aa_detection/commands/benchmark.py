"""Measure time and memory of the attention operator and of detectors with it.

    benchmark.py attention      every backend, plain attention as the floor, and timm's layer
    benchmark.py model          AA-RetinaNet against RetinaNet: inference and training step
    benchmark.py maps           attention maps of 20 points, as tools/visualize_attention.py draws
    benchmark.py onnx           exported backbones in onnxruntime
    benchmark.py precision      AA-RetinaNet's inference in bfloat16 and INT8, and its errors

Writes the figures (``.json``), a table of them (``.txt``) and, for attention, a plot (``.png``)
into ``--output``. Times are medians of cases that take turns in one process; memory is the peak
above the memory in use before, each case in its own process. Sizes measured on this machine earlier
keep their rows unless measured again. Runs on Linux.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from ..studies.benchmarks import detector, maps, onnx, operator, precision
from ..studies.benchmarks.rows import map_size
from .arguments import DEVICE_OPTION, command_parser, parse_size
from .ending import run_command

# the benchmarks and their options
BENCHMARKS = {
    "attention": (operator, ("batch", "device", "dtype", "busy")),
    "model": (detector, ("batch", "device")),
    "maps": (maps, ("device",)),
    "onnx": (onnx, ("batch",)),
    "precision": (precision, ("batch",)),
}
OPTIONS = {
    "batch": {"type": int, "help": "images per batch (default: 1)"},
    "device": DEVICE_OPTION,
    "dtype": {"choices": ("float32", "bfloat16"), "help": "type of the inputs (default: float32)"},
    "busy": {
        "type": int,
        "metavar": "N",
        "help": "measure beside N busy processes, as in training with data workers; writes files "
        "with _busy in their names (default: 0)",
    },
}


def describe_machine(args: argparse.Namespace) -> dict[str, Any]:
    if args.device == "cpu":
        info = Path("/proc/cpuinfo").read_text().splitlines()
        device = next((x.split(": ")[1] for x in info if x.startswith("model name")), "CPU")
    else:
        device = torch.cuda.get_device_name()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "batch": args.batch,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **({"spinning processes": args.busy} if args.busy else {}),
    }


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "benchmark.py", prog)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, options) in BENCHMARKS.items():
        command = commands.add_parser(name, description=module.__doc__)
        dtype = "by row" if module is precision else "float32"
        command.set_defaults(batch=1, device="cpu", dtype=dtype, busy=0)
        sizes = " ".join(f"{height}x{width}" for height, width in module.SIZES)
        command.add_argument(
            "--sizes",
            nargs="+",
            type=parse_size,
            metavar="HxW",
            default=module.SIZES,
            help=f"{'map' if module is operator else 'image'} sizes in pixels (default: {sizes})",
        )
        for option in options:
            command.add_argument(f"--{option}", **OPTIONS[option])
        command.add_argument(
            "--output",
            type=Path,
            default=Path("docs/benchmark"),
            metavar="DIR",
            help="output folder (default: docs/benchmark)",
        )
    args = parser.parse_args(argv)
    if args.batch < 1:
        parser.error(f"--batch must be at least 1, got {args.batch}")
    if args.busy < 0:
        parser.error(f"--busy must not be negative, got {args.busy}")
    return args


def run(args: argparse.Namespace) -> None:
    module, options = BENCHMARKS[args.command]
    machine = describe_machine(args)
    rows: list[dict[str, Any]] = []
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / (args.command + ("_busy" if args.busy else ""))
    if path.with_suffix(".json").exists():
        result = json.loads(path.with_suffix(".json").read_text())
        rows = result["rows"] if result["machine"] == machine else []
    # after every size, so that an interrupted run keeps its measurements
    for measured in module.measure(args.sizes, **{name: getattr(args, name) for name in options}):
        size = map_size(measured[0])
        rows = [row for row in rows if map_size(row) != size] + measured
        rows.sort(key=lambda row: row["height"] * row["width"])
        result = {"machine": machine, "rows": rows}
        path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        table = ", ".join(f"{key} {value}" for key, value in machine.items()) + "\n"
        table += module.table(rows)
        path.with_suffix(".txt").write_text(table + "\n")
    print(table)
    if module is operator:
        operator.plot(rows, path.with_suffix(".png"))


def main(argv: list[str] | None = None, prog: str = "benchmark.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    interrupted = "interrupted; the sizes that were measured are kept"
    return run_command(prog, run, args, interrupted=interrupted)
