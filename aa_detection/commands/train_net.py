"""Train and evaluate a detector.

    train_net.py --config-file sample/aa_retinanet_R18.yaml
    train_net.py --config-file aa_retinanet_R50.yaml --eval-only MODEL.WEIGHTS model_final.pth

The same YAML runs on detectron2 and, if that is not installed, on torchvision and Lightning.
"""

import argparse
import hashlib
import os

from fvcore.common.config import CfgNode

from ..data import register_coco_dataset
from ..engines import RunOptions, load_engine
from .arguments import ENGINE_OPTION, OVERRIDES, add_own_data, check_own_data, command_parser
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "train_net.py", prog)
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="YAML file, or the name of one that comes with the package, such as "
        "sample/aa_retinanet_R18.yaml; or a checkpoint that contains its config, which then also "
        "sets MODEL.WEIGHTS",
    )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS only")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read a .pkl file named by MODEL.WEIGHTS, such as detectron2's ImageNet weights; only "
        "arrays are accepted from it, since a pickle can run code",
    )
    parser.add_argument(
        "--allow-partial-weights",
        action="store_true",
        help="start from weights that fit less than half of the backbone",
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        help="processes on this machine, one per GPU (default: 1)",
    )
    parser.add_argument(
        "--num-machines", type=int, default=1, help="number of machines (default: 1)"
    )
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="rank of this machine, from 0 (default: 0)"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="rendezvous address of several machines, tcp://HOST:PORT; auto is for one machine "
        "(default: auto)",
    )
    data = parser.add_argument_group(
        "your own data", "annotations and images that replace DATASETS"
    )
    add_own_data(data)
    data.add_argument(
        "--skip-images",
        action="store_true",
        help="check only that image files exist before training, without opening them",
    )
    parser.add_argument("opts", **OVERRIDES)
    args = parser.parse_args(argv)
    check_own_data(parser, args)
    return args


def add_own_datasets(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Replace the config's datasets with those of ``--train-json`` and ``--val-json``.

    The run's ``config.yaml`` then says where they are, and can be evaluated from any folder.
    Datasets of different files have different names.
    """
    for split, key in (("train", "TRAIN"), ("val", "TEST")):
        annotations = getattr(args, f"{split}_json")
        if annotations:
            paths = [
                os.path.abspath(os.path.expanduser(path))
                for path in (annotations, getattr(args, f"{split}_images"))
            ]
            name = f"{split}_{hashlib.sha256(repr(paths).encode()).hexdigest()[:8]}"
            register_coco_dataset(name, *paths)
            cfg.DATASETS.COCO_FILES.append([name, *paths])
            cfg.DATASETS[key] = (name,)


def run(args: argparse.Namespace) -> None:
    engine = load_engine(args.engine)
    cfg = engine.load_config(args.config_file, args.opts)
    add_own_datasets(cfg, args)
    options = RunOptions(
        resume=args.resume,
        eval_only=args.eval_only,
        allow_pickle=args.allow_pickle,
        allow_partial=args.allow_partial_weights,
        num_gpus=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        open_images=not args.skip_images,
    )
    engine.run(cfg, options)


def main(argv: list[str] | None = None, prog: str = "train_net.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, interrupted="interrupted before the run began")
