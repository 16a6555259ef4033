#!/usr/bin/env python
"""Train and evaluate a detector.

    train_net.py --config-file sample/aa_retinanet_R18.yaml
    train_net.py --config-file aa_retinanet_R50.yaml --eval-only MODEL.WEIGHTS model_final.pth

The same YAML runs on detectron2 and, where that is not installed, on torchvision and Lightning.
"""

import argparse
import sys

from aa_detection.config import ConfigError
from aa_detection.data import DatasetError, register_coco_dataset
from aa_detection.engines import ENGINES, load_engine
from aa_detection.engines.processes import report
from aa_detection.training.failures import RunError, exit_status
from aa_detection.training.interrupt import Interrupted


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__.replace("train_net.py", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="YAML: a file, or the name of one that comes with the package, such as "
        "sample/aa_retinanet_R18.yaml",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", *ENGINES),
        default="auto",
        help="what to run on; auto is detectron2 where it imports, else torchvision",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS only")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read a .pkl that MODEL.WEIGHTS names, such as detectron2's ImageNet weights; a "
        "pickle can run code when it is read, so only arrays are accepted from it",
    )
    parser.add_argument(
        "--allow-partial-weights",
        action="store_true",
        help="train on from weights of which less than half of the backbone fits",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", help="where several machines meet: tcp://HOST:PORT"
    )
    data = parser.add_argument_group(
        "your own data", "COCO-format annotations and their images, in place of DATASETS"
    )
    for split in ("train", "val"):
        data.add_argument(f"--{split}-json", metavar="FILE")
        data.add_argument(f"--{split}-images", metavar="FOLDER")
    data.add_argument(
        "--skip-images",
        action="store_true",
        help="do not open the image files before training (they are looked for all the same)",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to override, at the end of the command",
    )
    args = parser.parse_args(argv)
    for split in ("train", "val"):
        if bool(getattr(args, f"{split}_json")) != bool(getattr(args, f"{split}_images")):
            parser.error(f"--{split}-json and --{split}-images go together")
    return args


def main(argv: list[str] | None = None, prog: str = "train_net.py") -> int:
    """Run the command line; the status is 0 or :func:`exit_status`'s."""
    args = parse_args(argv, prog)
    try:
        engine = load_engine(args.engine)
        cfg = engine.load_config(args.config_file, args.opts)
        for split, key in (("train", "TRAIN"), ("val", "TEST")):
            annotations = getattr(args, f"{split}_json")
            if annotations:
                name = f"custom_{split}"
                register_coco_dataset(name, annotations, getattr(args, f"{split}_images"))
                cfg.DATASETS[key] = (name,)
        engine.run(
            cfg,
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
    except (ConfigError, DatasetError, RunError, Interrupted) as end:
        report(f"{prog}: {end}")
        return exit_status(end)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted before the run began", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
