"""Measure what attention gains: plain, AA, SE and AW twins of one detector.

    reproduce_gains.py              on whatever engine and device there is, a run at a time
    reproduce_gains.py --jobs 2     two at a time

Two datasets, both drawn by the project: `sample`, ordinary objects, and `context`, whose classes
can be told only from the far end of the image. The arms differ in MODEL.ATTENTION.CONV and GATE
alone, and train on the same images for the same number of steps with the same seeds.

Every run is a process of its own and leaves its numbers and detections in ``--records``. What is
there is not run again, and what was interrupted goes on from its last checkpoint: start the same
command as often as needed. A table of the runs that are complete, with confidence intervals over
images and seeds, is printed at the end, also after Ctrl-C, and written beside them.
"""

import argparse
import signal
import statistics
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..comparison import compare
from ..config import configs_folder
from ..data.synthetic.context import CONTEXT
from ..data.synthetic.drawn import DrawnDataset
from ..data.synthetic.sample import SAMPLE
from ..engines import engine_name
from ..studies.runs import TRAIN, Run, Runs
from ..training.interrupt import Interrupted
from .arguments import ENGINE_OPTION, add_run_options
from .ending import run_command

# The protocol. Fixed before the runs; another one needs another folder of records.
SEEDS = (1, 2, 3, 4, 5)
ARMS = {
    "plain": (),
    "aa": ("MODEL.ATTENTION.CONV", "aa"),
    "se": ("MODEL.ATTENTION.GATE", "se"),
    "aw": ("MODEL.ATTENTION.CONV", "aw"),
}
BASELINE = "plain"


@dataclass(frozen=True)
class Experiment:
    dataset: DrawnDataset
    num_train: int
    num_val: int
    config_file: Path
    seed: int = 0  # of the images

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


def table(runs: Runs, name: str, plan: dict[str, list[Run]], annotations: Path) -> list[str]:
    """The arms of one dataset beside the baseline, in Markdown; of the runs that are complete."""
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
    """Names of `known` from a list with commas."""
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__.replace("reproduce_gains.py", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, known in (("datasets", EXPERIMENTS), ("arms", ARMS)):
        parser.add_argument(
            f"--{name}",
            type=partial(chosen, known),
            default=[*known],
            metavar="NAME,NAME",
            help=f"default: {','.join(known)}",
        )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument(
        "--records",
        type=Path,
        default=Path("docs/gains"),
        help="what is kept of the runs (default: docs/gains)",
    )
    add_run_options(parser, seeds=SEEDS, work="output/gains")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, prog: str) -> int:
    """0; 1 where a run failed; 130 and 143 where they were interrupted. The table is of what is."""
    runs = Runs(TRAIN, engine_name(args.engine), args.records, args.work)
    root = (args.work / "datasets").resolve()
    plans = {
        name: {
            arm: [EXPERIMENTS[name].run(arm, seed, args.opts, root) for seed in args.seeds]
            for arm in args.arms
        }
        for name in args.datasets
    }
    # a seed of every arm before the next: what is there so far can be compared
    order = [
        plans[name][arm][number]
        for name in args.datasets
        for number in range(len(args.seeds))
        for arm in args.arms
    ]
    folders = {name: EXPERIMENTS[name].write(root) for name in args.datasets}
    status = 0
    try:
        if runs.complete(order, jobs=args.jobs, report=lambda line: print(line, flush=True)):
            status = 1
    except (KeyboardInterrupt, Interrupted) as end:
        print(f"{prog}: interrupted; the same command continues", file=sys.stderr)
        status = 128 + getattr(end, "signum", signal.SIGINT)
    lines = []
    for name in args.datasets:
        lines += table(runs, name, plans[name], folders[name] / "annotations/val.json")
    text = "\n".join(lines)
    print(text)
    args.records.mkdir(parents=True, exist_ok=True)
    (args.records / "table.md").write_text(text, encoding="utf-8")
    return status


def main(argv: list[str] | None = None, prog: str = "reproduce_gains.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, run, args, prog, interrupted="interrupted before the runs began")
