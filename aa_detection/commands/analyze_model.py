"""Count a detector's parameters, FLOPs, activations and attention memory.

Takes a config, or with --table lists every network of the papers beside the published numbers. A
FLOP is a multiply-add, as in fvcore. A detector's FLOPs and activations count only parts whose cost
depends on the image alone: backbone, pyramid and dense head (RetinaNet's, or the region proposal
network's).
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torchvision
from torch import nn

from ..engines import load_engine
from ..models import classification
from ..models.analysis import Analysis, AttentionCost, DensePart, analyze
from ..models.wide_resnet import WideResNet
from .arguments import ENGINE_OPTION, OVERRIDES, command_parser
from .ending import run_command


def analyze_config(
    engine_name: str, config: str, overrides: list[str], size: tuple[int, int]
) -> Analysis:
    """Return the :class:`Analysis` of a config's detector on one image.

    Raises:
        ConfigError: see the engine's ``load_config`` and ``build_model``.
    """
    engine = load_engine(engine_name)
    cfg = engine.load_config(config, [*overrides, "MODEL.DEVICE", "cpu"])
    detector = engine.build_model(cfg)
    analysis = analyze(DensePart(detector), torch.ones(1, 3, *size))
    analysis.parameters = sum(p.numel() for p in detector.parameters())
    return analysis


def report(analysis: Analysis, size: tuple[int, int]) -> str:
    """Format the counts, and attention's memory by stage."""
    lines = [
        f"parameters   {analysis.parameters / 1e6:10.2f} M",
        f"FLOPs        {analysis.flops / 1e9:10.2f} G multiply-adds, 1 x 3 x {size[0]} x {size[1]}",
        f"activations  {analysis.activations / 1e6:10.2f} M",
    ]
    if analysis.attention:
        lines += ["", "attention, MB in float32", "stage   layers    map  logits  q, k, v, output"]
        rows: dict[str, list[AttentionCost]] = {}
        for cost in analysis.attention:
            match = re.search(r"res\d|layers?\W?\d+", cost.layer)
            rows.setdefault(match[0] if match else cost.layer, []).append(cost)
        for stage, costs in [*rows.items(), ("total", analysis.attention)]:
            maps = sorted({f"{c.height}x{c.width}" for c in costs})
            lines.append(
                f"{stage:7} {len(costs):6} {maps[0] if len(maps) == 1 else '':>6} "
                f"{sum(c.logits_bytes for c in costs) / 1e6:7.1f} "
                f"{sum(c.linear_bytes for c in costs) / 1e6:16.1f}"
            )
    return "\n".join(lines)


@dataclass
class PublishedNetwork:
    """A network of the papers; parameters in millions, FLOPs in 1e9, None if not stated."""

    name: str
    analyze: Callable[[], Analysis]
    parameters: float | None = None
    flops: float | None = None


def _classifier(build: Callable[[], nn.Module], size: int) -> Analysis:
    return analyze(build(), torch.ones(1, 3, size, size))


def published_networks(engine: str) -> list[PublishedNetwork]:
    """Return the networks of Bello et al. (ICCV 2019), Hu et al. (CVPR 2018) and arXiv 2108.08205.

    The numbers are recalled, not read again.
    """
    networks = []
    for depth, plain, augmented in (
        (34, 21.8, 20.7),
        (50, 25.6, 25.8),
        (101, 44.5, 45.4),
        (152, 60.2, 61.6),
    ):
        for name, make, parameters in (
            ("ResNet", getattr(torchvision.models, f"resnet{depth}"), plain),
            ("AA-ResNet", getattr(classification, f"aa_resnet{depth}"), augmented),
        ):
            networks.append(
                PublishedNetwork(f"{name}-{depth}", partial(_classifier, make, 224), parameters)
            )
    for name, make, size, millions in (
        ("SE-ResNet-50", classification.se_resnet50, 224, 28.1),
        ("AW-ResNet-50", classification.aw_resnet50, 224, 25.7),
        ("AW-ResNet-101", classification.aw_resnet101, 224, None),
        ("WRN-28-10", WideResNet, 32, None),
        ("AA-WRN-28-10", classification.aa_wide_resnet28_10, 32, None),
        ("MnasNet-B1", torchvision.models.mnasnet1_0, 224, None),
        ("AA-MnasNet-B1", classification.aa_mnasnet, 224, None),
    ):
        networks.append(PublishedNetwork(name, partial(_classifier, make, size), millions))
    for prefix, depth, parameters, flops in (
        ("", 50, 33.4, 182),
        ("se_", 50, 35.9, 183),
        ("aa_", 50, 33.1, 182),
        ("", 101, 52.4, 243),
        ("se_", 101, 57.2, 243),
        ("aa_", 101, 51.7, 245),
    ):
        config = f"{prefix}retinanet_R{depth}_scratch_150ep.yaml"
        name = f"{prefix[:-1].upper()}{'-' if prefix else ''}RetinaNet-R{depth}"
        count = partial(analyze_config, engine, config, [], (640, 640))
        networks.append(PublishedNetwork(name, count, parameters, flops))
    return networks


NOTES = """
Published figures are recalled from the papers, not read again.
FLOPs are multiply-adds. The published ones of the RetinaNets count otherwise (about twice that, in
a network with another P6), so compare their changes. Parameters of the RetinaNets: the published
ones take P6 from P5, detectron2's from res5, which is 4.13 M more in every row.
WRN-28-10 has 36.5 M parameters by its own paper. MnasNet-B1 is torchvision's, without squeeze and
excitation; Bello et al. augment another of the family.
"""


def table(engine: str) -> str:
    """Format our numbers beside the published ones, with the relative difference."""
    header = f"{'network':20} {'params M':>9} {'published':>9} {'diff %':>7}"
    lines = [header + f" {'GFLOPs':>9} {'published':>9}"]
    for network in published_networks(engine):
        analysis = network.analyze()
        ours = analysis.parameters / 1e6
        line = f"{network.name:20} {ours:9.2f}"
        if network.parameters is None:
            line += f" {'-':>9} {'-':>7}"
        else:
            difference = 100 * (ours / network.parameters - 1)
            line += f" {network.parameters:9.1f} {difference:+7.2f}"
        line += f" {analysis.flops / 1e9:9.2f}"
        line += f" {'-' if network.flops is None else network.flops:>9}"
        lines.append(line)
    return "\n".join(lines) + "\n" + NOTES


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "analyze_model.py", prog)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", metavar="FILE", help="YAML configuration of a detector")
    what.add_argument("--table", action="store_true", help="list every network of the papers")
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(640, 640),
        metavar=("H", "W"),
        help="image height and width in pixels (default: 640 640)",
    )
    parser.add_argument("opts", **OVERRIDES)
    args = parser.parse_args(argv)
    if min(args.size) < 1:
        parser.error(f"--size must be positive, got {args.size}")
    return args


def run(args: argparse.Namespace) -> None:
    if args.table:
        print(table(args.engine))
    else:
        size = tuple(args.size)
        print(report(analyze_config(args.engine, args.config_file, args.opts, size), size))


def main(argv: list[str] | None = None, prog: str = "analyze_model.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    return run_command(prog, run, parse_args(argv, prog))
