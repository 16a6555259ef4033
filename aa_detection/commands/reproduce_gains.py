"""Measure what attention gains, on your data or on the project's own.

    reproduce_gains.py --config-file my.yaml --train-json train.json --train-images train/ \\
        --val-json val.json --val-images val/ --arms plain,add --seeds 1,2,3

    reproduce_gains.py              the tables of docs/gains: two datasets that the project draws
    reproduce_gains.py --jobs 2     two runs at a time

Trains one detector with and without attention, with several seeds each. The arms differ in
MODEL.ATTENTION alone, and train on the same images for the same number of steps with the same
seeds. Every run is a separate process and writes its numbers and detections to ``--records``.
Complete runs are not repeated, and interrupted ones continue from their last checkpoint: repeat the
command as often as needed. At the end, also after Ctrl-C, it prints a table of the complete runs,
with confidence intervals over images and seeds, and a verdict in words, and writes both beside the
runs.

Without your own data it uses two drawn datasets: `sample`, ordinary objects, and `context`, whose
classes can be told only from the far end of the image.
"""

import argparse
import statistics
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoints.about import sha256
from ..comparison import compare
from ..config import ConfigError, configs_folder, number_of_classes
from ..data import CocoDataset, check_datasets, require_usable
from ..data.synthetic.context import CONTEXT
from ..data.synthetic.drawn import DrawnDataset
from ..data.synthetic.sample import SAMPLE
from ..engines import Engine, engine_name, load_engine
from ..overwriting import refuse_overwriting
from ..studies.runs import TRAIN, Run, Runs
from ..training.failures import exit_status
from ..training.interrupt import Interrupted
from .arguments import ENGINE_OPTION, add_own_data, add_run_options, command_parser
from .ending import run_command

# The protocol, fixed before the runs; a different one needs a different folder of records.
SEEDS = (1, 2, 3, 4, 5)
_MASK = "MODEL.ATTENTION.AA.MASK_PADDING"
_AA = ("MODEL.ATTENTION.CONV", "aa")
ARMS = {
    "plain": (),
    "aa": _AA,
    "add": (*_AA, "MODEL.ATTENTION.AA.MERGE", "add"),
    "se": ("MODEL.ATTENTION.GATE", "se"),
    "aw": ("MODEL.ATTENTION.CONV", "aw"),
    # the effect of the padding mask by itself
    "plain-mask-batch": (_MASK, "batch"),
    "plain-mask-all": (_MASK, "all"),
    "aa-mask-none": (*_AA, _MASK, "none"),
    "aa-mask-batch": (*_AA, _MASK, "batch"),
    "aa-mask-all": (*_AA, _MASK, "all"),
}
BASELINE = "plain"
DRAWN_ARMS = ("plain", "aa", "se", "aw")
OWN_ARMS = ("plain", "aa", "add")
SPLITS = ("train", "val")
OWN = ("config_file", *(f"{split}_{part}" for split in SPLITS for part in ("json", "images")))


@dataclass(frozen=True)
class Experiment:
    dataset: DrawnDataset
    num_train: int
    num_val: int
    config_file: Path
    seed: int = 0  # seed of the images

    def write(self, root: Path) -> Path:
        return self.dataset.write(
            root, num_train=self.num_train, num_val=self.num_val, seed=self.seed
        )

    def run(self, arm: str, seed: int, overrides: list[str], root: Path) -> Run:
        data = {
            "version": self.dataset.version,
            "num_train": self.num_train,
            "num_val": self.num_val,
            "seed": self.seed,
        }
        return Run(
            name=f"{self.dataset.name}/{arm}-seed{seed}",
            config_file=self.config_file,
            overrides=(*overrides, *ARMS[arm], "SEED", str(seed)),
            labels={"dataset": self.dataset.name, "arm": arm, "seed": seed, "data": data},
            environment={"DETECTRON2_DATASETS": str(root)},
        )


EXPERIMENTS = {
    "context": Experiment(CONTEXT, 1500, 300, configs_folder() / "gains/context_R18.yaml"),
    "sample": Experiment(SAMPLE, 1500, 300, configs_folder() / "gains/sample_R18.yaml"),
}


@dataclass(frozen=True)
class OwnData:
    """The user's data: COCO files with their images, and the detector to train."""

    config_file: Path
    train: CocoDataset
    val: CocoDataset
    allow_pickle: bool

    @property
    def name(self) -> str:
        return self.config_file.stem

    def run(self, arm: str, seed: int, overrides: list[str], labels: dict[str, Any]) -> Run:
        arguments = ["--allow-pickle"] if self.allow_pickle else []
        for split, dataset in zip(SPLITS, (self.train, self.val)):
            arguments += [f"--{split}-json", str(dataset.annotation_file.absolute())]
            arguments += [f"--{split}-images", str(dataset.image_root.absolute())]
        # the file may describe a detector with attention
        attention = ("MODEL.ATTENTION.CONV", "", "MODEL.ATTENTION.GATE", "", *ARMS[arm])
        return Run(
            name=f"{self.name}/{arm}-seed{seed}",
            config_file=self.config_file,
            overrides=(*overrides, *attention, "SEED", str(seed)),
            arguments=tuple(arguments),
            labels={"arm": arm, "seed": seed, **labels},
        )

    def check(self, engine: Engine, arms: list[str], overrides: list[str]) -> dict[str, Any]:
        """Return the data, and the weights if any, identified by content.

        Raises:
            ConfigError, DatasetError: it cannot be trained on.
        """
        for arm in arms:
            run = self.run(arm, 1, overrides, {})
            cfg = engine.load_config(str(run.config_file), run.overrides)
        reports = check_datasets([self.train], [self.val], num_classes=number_of_classes(cfg))
        require_usable(reports)
        files = {"train": self.train.annotation_file, "val": self.val.annotation_file}
        weights = cfg.MODEL.WEIGHTS
        if weights and "://" not in weights:
            files["weights"] = Path(weights)
        return {"data": {part: _digest(part, file) for part, file in files.items()}}


def _digest(part: str, file: Path) -> str:
    try:
        return sha256(file)[:16]
    except OSError as error:
        key = "MODEL.WEIGHTS" if part == "weights" else f"--{part}-json"
        raise ConfigError(f"{key} {file}: {error.strerror}") from None


def table(runs: Runs, name: str, plan: dict[str, list[Run]], annotations: Path) -> list[str]:
    """Format the arms of one dataset beside the baseline in Markdown, from complete runs only."""
    complete = {
        arm: [run for run in arm_runs if runs.record(run)] for arm, arm_runs in plan.items()
    }
    found = {arm: [runs.detections(run) for run in done] for arm, done in complete.items()}
    lines = [
        f"## {name}",
        "",
        "| arm | runs | AP (standard deviation) | AP50 | AP75 | AP over plain, 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    verdicts = []
    for arm, done in complete.items():
        if not done:
            continue
        cells = [arm, str(len(done))]
        for metric in ("AP", "AP50", "AP75"):
            values = [record["metrics"][metric] for run in done if (record := runs.record(run))]
            cells.append(f"{statistics.mean(values):.1f}")
            if metric == "AP" and len(values) > 1:
                cells[-1] += f" ({statistics.stdev(values):.1f})"
        if arm == BASELINE or not found.get(BASELINE):
            cells.append("")
        else:
            comparison = compare(annotations, found[arm], found[BASELINE], names=(arm, BASELINE))
            ap = comparison.metrics["AP"]
            cells.append(f"{ap.difference:+.1f}, {ap.low:+.1f} to {ap.high:+.1f}")
            verdicts.append(f"- {comparison.verdict}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *verdicts, ""]


def chosen(known: Collection[str], text: str) -> list[str]:
    """Parse a comma-separated list of names in `known`."""
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "reproduce_gains.py", prog)
    own = parser.add_argument_group("your own data", "all of these together")
    own.add_argument("--config-file", type=Path, metavar="FILE", help="config of the detector")
    add_own_data(own)
    own.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read a .pkl file named by MODEL.WEIGHTS; see train_net.py",
    )
    parser.add_argument(
        "--datasets",
        type=partial(chosen, EXPERIMENTS),
        metavar="NAME,NAME",
        help=f"project datasets to use (default: {','.join(EXPERIMENTS)})",
    )
    parser.add_argument(
        "--arms",
        type=partial(chosen, ARMS),
        metavar="NAME,NAME",
        help=f"arms to train, from {','.join(ARMS)}; the baseline is {BASELINE} "
        f"(default: {','.join(DRAWN_ARMS)}; {','.join(OWN_ARMS)} on your own data)",
    )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FOLDER",
        help="folder for the results (default: docs/gains; output/gains/records for your own data)",
    )
    add_run_options(parser, seeds=SEEDS, work="output/gains")
    args = parser.parse_args(argv)
    missing = [part for part in OWN if getattr(args, part) is None]
    args.own = len(missing) < len(OWN)
    if args.own and missing:
        parser.error(f"your own data needs --{missing[0].replace('_', '-')}, too")
    if args.own and args.datasets:
        parser.error("--datasets are the project's own: leave it out, or --train-json and the like")
    args.datasets = args.datasets or [*EXPERIMENTS]
    args.arms = args.arms or [*(OWN_ARMS if args.own else DRAWN_ARMS)]
    args.records = args.records or Path("output/gains/records" if args.own else "docs/gains")
    return args


def run(args: argparse.Namespace, prog: str) -> int:
    """Return 0; 1 if a run failed; 130 or 143 if interrupted. Always prints the complete runs."""
    engine = engine_name(args.engine)
    refuse_overwriting(
        [(f"--{option.replace('_', '-')}", getattr(args, option)) for option in OWN],
        [("--records", args.records), ("--work", args.work)],
    )
    runs = Runs(TRAIN, engine, args.records, args.work)
    plans: dict[str, dict[str, list[Run]]]
    if args.own:
        own = OwnData(
            args.config_file,
            CocoDataset("train", Path(args.train_json), Path(args.train_images)),
            CocoDataset("val", Path(args.val_json), Path(args.val_images)),
            args.allow_pickle,
        )
        labels = own.check(load_engine(engine), args.arms, args.opts)
        plans = {
            own.name: {
                arm: [own.run(arm, seed, args.opts, labels) for seed in args.seeds]
                for arm in args.arms
            }
        }
        annotations = {own.name: Path(args.val_json)}
        table_file = args.records / own.name / "table.md"
    else:
        root = (args.work / "datasets").resolve()
        plans = {
            name: {
                arm: [EXPERIMENTS[name].run(arm, seed, args.opts, root) for seed in args.seeds]
                for arm in args.arms
            }
            for name in args.datasets
        }
        annotations = {
            name: EXPERIMENTS[name].write(root) / "annotations/val.json" for name in args.datasets
        }
        table_file = args.records / "table.md"
    # one seed of every arm before the next, so that partial results can be compared
    order = [
        plan[arm][number]
        for plan in plans.values()
        for number in range(len(args.seeds))
        for arm in args.arms
    ]
    status = 0
    try:
        if runs.complete(order, jobs=args.jobs, report=lambda line: print(line, flush=True)):
            status = 1
    except Interrupted as end:
        print(f"{prog}: interrupted; the same command continues", file=sys.stderr)
        status = exit_status(end)
    lines = []
    for name, plan in plans.items():
        lines += table(runs, name, plan, annotations[name])
    text = "\n".join(lines)
    print(text)
    table_file.parent.mkdir(parents=True, exist_ok=True)
    table_file.write_text(text, encoding="utf-8")
    return status


def main(argv: list[str] | None = None, prog: str = "reproduce_gains.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, prog, interrupted="interrupted before the runs began")
