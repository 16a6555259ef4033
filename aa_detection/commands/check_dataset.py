"""List everything that is wrong with a dataset, before training on it.

    check_dataset.py --train-json train.json --train-images train/
    check_dataset.py --config-file aa_retinanet_R50.yaml
    check_dataset.py --config-file aa_retinanet_R50.yaml \\
        --train-json train.json --train-images train/ --val-json val.json --val-images val/ \\
        MODEL.RETINANET.NUM_CLASSES 5

Takes the same arguments as training. The exit status is 0 if nothing prevents training, 1 if
something does, 2 if the command itself cannot be used.
"""

import argparse

from ..config import ConfigError, number_of_classes
from ..data import (
    CocoDataset,
    DatasetReport,
    check_datasets,
    get_coco_dataset,
    register_coco_dataset,
)
from ..engines import load_engine
from .arguments import ENGINE_OPTION, OVERRIDES, add_own_data, check_own_data, command_parser
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "check_dataset.py", prog)
    add_own_data(parser)
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config that sets the number of classes, and the DATASETS unless given here",
    )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument(
        "--skip-images",
        action="store_true",
        help="check only that image files exist, without opening them",
    )
    parser.add_argument("opts", **OVERRIDES)
    args = parser.parse_args(argv)
    check_own_data(parser, args)
    if not (args.train_json or args.val_json or args.config_file):
        parser.error("name a dataset with --train-json and --train-images, or a --config-file")
    if args.opts and not args.config_file:
        parser.error("KEY VALUE pairs go with --config-file")
    return args


def run(args: argparse.Namespace) -> int:
    """Return 0 if nothing prevents training, else 1."""
    cfg = None
    if args.config_file:
        cfg = load_engine(args.engine).load_config(args.config_file, args.opts)
    datasets: dict[str, list[CocoDataset]] = {}
    for split, key in (("train", "TRAIN"), ("val", "TEST")):
        annotations = getattr(args, f"{split}_json")
        if annotations:
            images = getattr(args, f"{split}_images")
            datasets[key] = [register_coco_dataset(f"custom_{split}", annotations, images)]
        else:
            names = cfg.DATASETS[key] if cfg is not None else ()
            datasets[key] = [get_coco_dataset(name) for name in names]
    if not any(datasets.values()):
        raise ConfigError("DATASETS.TRAIN and DATASETS.TEST are empty; name a dataset")
    reports = check_datasets(
        datasets["TRAIN"],
        datasets["TEST"],
        num_classes=None if cfg is None else number_of_classes(cfg),
        masks=cfg is not None and cfg.MODEL.MASK_ON,
        images="names" if args.skip_images else "pixels",
    )
    for report in reports:
        show(report)
    return 1 if any(report.errors for report in reports) else 0


def show(report: DatasetReport) -> None:
    print(report.dataset.annotation_file)
    if report.summary is not None:
        print(f"  {report.summary}")
    for title, findings in (("errors", report.errors), ("warnings", report.warnings)):
        print(f"  {title}: {sum(finding.count for finding in findings)}")
        for finding in findings:
            print(f"    {finding}")
    opened = f", images opened in {report.image_seconds:.1f} s" if report.image_seconds else ""
    print(f"  checked in {report.seconds:.2f} s{opened}")


def main(argv: list[str] | None = None, prog: str = "check_dataset.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    return run_command(prog, run, parse_args(argv, prog))
