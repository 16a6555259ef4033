"""Measure what each attention setting gains and costs, one factor at a time.

    sweep_ratio.py train     AP of every choice: the small detector on the drawn datasets
    sweep_ratio.py cost      parameters, FLOPs, latency and memory of every choice
    sweep_ratio.py report    a table and a plot of both

AP is that of the AA twin of tools/reproduce_gains.py with one key changed: for every choice on the
context dataset, which needs attention, and for the value ratio also on the sample dataset, which
does not. Costs are those of AA-RetinaNet-R50 with the same key. Parameters and FLOPs
(multiply-adds) are counted; time and memory are measured for inference on one image up to the
head's outputs, the time beside the plain detector's in the same process. Everything is kept in
``--records``; complete runs are not repeated, and interrupted ones continue.
"""

import argparse
import json
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import dunnett
from torch import nn

from ..atomic_file import atomic_write
from ..comparison.intervals import CONFIDENCE
from ..config import ConfigError, configs_folder
from ..data.synthetic.context import CONTEXT
from ..data.synthetic.drawn import DrawnDataset
from ..data.synthetic.sample import SAMPLE
from ..engines import engine_name, load_engine
from ..models.analysis import DensePart, analyze
from ..studies.runs import TRAIN, Run, Runs
from ..studies.timing import (
    Case,
    in_fresh_process,
    peak_memory,
    take_turns,
    without_gradients,
)
from .arguments import DEVICE_OPTION, ENGINE_OPTION, add_run_options, command_parser, parse_size
from .ending import run_command

COSTED = "aa_retinanet_R50.yaml"
NUM_TRAIN, NUM_VAL = 1500, 300
SEEDS = (1, 2, 3)

ATTENTION = "MODEL.ATTENTION"


def one_key(key: str, default: object, values: list[Any]) -> dict[str, tuple[str, ...]]:
    """Return the values of one config key as text, each with its override of the default."""
    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        text = ", ".join(value) or "none" if isinstance(value, list) else str(value)
        found[text] = () if value == default else (key, repr(value))
    return found


# the values of each factor and their overrides, none for the default
FACTORS = {
    "value ratio": one_key(f"{ATTENTION}.AA.VALUE_RATIO", 0.1, [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]),
    "key ratio": one_key(f"{ATTENTION}.AA.KEY_RATIO", 0.2, [0.1, 0.2, 0.5, 1.0]),
    "heads": one_key(f"{ATTENTION}.AA.NUM_HEADS", 8, [1, 2, 4, 8, 16]),
    "stages": one_key(
        f"{ATTENTION}.STAGES",
        ["res3", "res4", "res5"],
        [["res5"], ["res4", "res5"], ["res3", "res4", "res5"]],
    ),
    "pooled stages": one_key(
        f"{ATTENTION}.AA.POOL_STAGES", ["res3"], [[], ["res3"], ["res3", "res4"]]
    ),
    "positions": {
        "relative": (),
        "absolute": (f"{ATTENTION}.AA.RELATIVE", "False", f"{ATTENTION}.AA.ABSOLUTE", "True"),
        "none": (f"{ATTENTION}.AA.RELATIVE", "False"),
    },
}


@dataclass(frozen=True)
class Choice:
    """A value of a factor; the default is the same choice in every factor."""

    factor: str
    value: str
    name: str  # name of its files
    overrides: tuple[str, ...]


def choices() -> list[Choice]:
    found = []
    for factor, values in FACTORS.items():
        for value, overrides in values.items():
            name = (
                f"{factor} {value}".replace(",", "").replace(" ", "-") if overrides else "default"
            )
            found.append(Choice(factor, value, name, (f"{ATTENTION}.CONV", "aa", *overrides)))
    return found


# ---- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The training task for the choices of some factors."""

    dataset: DrawnDataset
    config_file: Path
    factors: tuple[str, ...]

    def choices(self) -> list[Choice]:
        """Return every choice once, including the default."""
        return list({c.name: c for c in choices() if c.factor in self.factors}.values())


TASKS = (
    Task(CONTEXT, configs_folder() / "gains/context_R18.yaml", tuple(FACTORS)),
    Task(SAMPLE, configs_folder() / "gains/sample_R18.yaml", ("value ratio",)),
)


def planned_runs(args: argparse.Namespace, task: Task) -> dict[str, list[Run]]:
    """Return the runs of every choice by its name, one per seed."""
    root = (args.work / "datasets").resolve()
    size = {"num_train": NUM_TRAIN, "num_val": NUM_VAL}
    data = {"version": task.dataset.version, **size, "seed": 0}
    return {
        choice.name: [
            Run(
                name=f"{task.dataset.name}/{choice.name}-seed{seed}",
                config_file=task.config_file,
                overrides=(*args.opts, *choice.overrides, "SEED", str(seed)),
                labels={"choice": choice.name, "seed": seed, "data": data},
                environment={"DETECTRON2_DATASETS": str(root)},
            )
            for seed in args.seeds
        ]
        for choice in task.choices()
    }


def train(args: argparse.Namespace) -> int:
    plans = [planned_runs(args, task) for task in TASKS]
    root = (args.work / "datasets").resolve()
    for task in TASKS:
        task.dataset.write(root, num_train=NUM_TRAIN, num_val=NUM_VAL)
    # one seed of every choice before the next
    order = [
        runs[number]
        for number in range(len(args.seeds))
        for plan in plans
        for runs in plan.values()
    ]
    failed = recorded_runs(args).complete(order, jobs=args.jobs, report=say)
    return 1 if failed else 0


def recorded_runs(args: argparse.Namespace) -> Runs:
    return Runs(TRAIN, engine_name(args.engine), args.records, args.work)


# ---- cost ----------------------------------------------------------------------------------------

PLAIN = (f"{ATTENTION}.CONV", "")
MEMORY_TRIES = 5  # the allocator adds up to half, a varying amount, and never takes away


def cost(args: argparse.Namespace) -> int:
    path = args.records / "cost.json"
    machine = {
        "device": "CPU" if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "threads": torch.get_num_threads(),
        "size": list(args.size),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    kept = read_costs(path)
    rows = kept["rows"] if kept["machine"] == machine else {}
    args.records.mkdir(parents=True, exist_ok=True)
    engine = args.engine
    for choice in choices():
        if choice.name in rows:
            continue
        row = counts(engine, choice.overrides, args.size)
        times = in_fresh_process(latency, engine, choice.overrides, args.size, args.device)
        row["forward_ms"] = times["aa"]["forward_ms"]
        row["plain_forward_ms"] = times["plain"]["forward_ms"]
        peaks = [
            in_fresh_process(memory, engine, choice.overrides, args.size, args.device)
            for _ in range(MEMORY_TRIES)
        ]
        row["forward_mb"] = min(peaks)
        rows[choice.name] = row
        say(f"{choice.name}: {row['forward_ms'] / row['plain_forward_ms']:.2f} times plain")
        # after every choice, so that an interrupted run keeps its measurements
        content = {"machine": machine, "rows": rows}
        with atomic_write(path, "w") as file:
            file.write(json.dumps(content, indent=1) + "\n")
    return 0


def read_costs(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"machine": content["machine"], "rows": content["rows"]}
    except FileNotFoundError:
        return {"machine": {}, "rows": {}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a file of costs: {error}") from None


def detector(engine: str, overrides: tuple[str, ...]) -> nn.Module:
    builder = load_engine(engine)
    merge = ("MODEL.ATTENTION.AA.MERGE", "concat")  # the paper's, as in the trainings
    words = [*merge, *overrides, "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    torch.manual_seed(0)
    model = builder.build_model(builder.load_config(str(COSTED), words)).eval()
    for name, module in model.named_modules():
        # random weights with frozen statistics would overflow
        if name.endswith(("bn3", "conv3.norm")):
            nn.init.constant_(module.weight, 0.2)
    return DensePart(model)


def counts(engine: str, overrides: tuple[str, ...], size: tuple[int, int]) -> dict[str, float]:
    model = detector(engine, overrides)
    analysis = analyze(model, torch.ones(1, 3, *size))
    return {"parameters": analysis.parameters, "flops": analysis.flops}


def inference(engine: str, overrides: tuple[str, ...], size: tuple[int, int], device: str) -> Case:
    model = detector(engine, overrides).to(device)
    images = torch.randn(1, 3, *size, device=device)
    return without_gradients(torch.no_grad()(lambda: model(images)))


def latency(
    engine: str, overrides: tuple[str, ...], size: tuple[int, int], device: str
) -> dict[str, dict[str, float]]:
    cases = {
        "plain": inference(engine, PLAIN, size, device),
        "aa": inference(engine, overrides, size, device),
    }
    return take_turns(cases, device)


def memory(engine: str, overrides: tuple[str, ...], size: tuple[int, int], device: str) -> float:
    inference(engine, overrides, (64, 64), device)(False)  # warm up PyTorch's one-time allocations
    return peak_memory(inference(engine, overrides, size, device), device)["forward_mb"]


# ---- report --------------------------------------------------------------------------------------


# AP of one task's seeds by choice
Scores = dict[str, list[float]]


def report(args: argparse.Namespace) -> int:
    runs = recorded_runs(args)
    costs = read_costs(args.records / "cost.json")["rows"]
    scores = [
        {
            name: [record["metrics"]["AP"] for record in map(runs.record, planned) if record]
            for name, planned in planned_runs(args, task).items()
        }
        for task in TASKS
    ]
    text = table(scores, costs)
    print(text)
    args.records.mkdir(parents=True, exist_ok=True)
    (args.records / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(scores, costs, args.records / "sweep.png")
    return 0


def over_default(scores: Scores) -> dict[str, str]:
    """Return each choice's mean AP minus the default's with a 95 % interval, none with few seeds.

    Uses Dunnett's test: of intervals that are each right with a probability of 0.95, one in twenty
    would show a difference where there is none; these are all right together with that probability.
    The test assumes the same variance between seeds for all choices, and ignores the sampling of
    images.
    """
    control = scores["default"]
    others = {name: values for name, values in scores.items() if name != "default" and values}
    seeds = len(control) + sum(map(len, others.values()))
    if not control or not others or seeds <= len(others) + 1:
        return {}
    test = dunnett(*others.values(), control=control, random_state=0)
    bounds = test.confidence_interval(CONFIDENCE)
    middles = [statistics.mean(values) - statistics.mean(control) for values in others.values()]
    return {
        name: f"{middle:+.1f}, {low:+.1f} to {high:+.1f}"
        for name, middle, low, high in zip(others, middles, bounds.low, bounds.high)
    }


def table(scores: list[Scores], costs: dict[str, dict[str, Any]]) -> str:
    """Format a row per choice in Markdown, its AP on every task beside its costs."""
    heads = ["factor", "value"]
    for task in TASKS:
        heads += [f"AP, {task.dataset.name} (standard deviation)", "over the default"]
    heads += ["M params", "G FLOPs", "ms (times plain)", "MB"]
    differences = [over_default(of_task) for of_task in scores]
    rows = [heads, ["---"] * len(heads)]
    for choice in choices():
        bold = "**" if choice.name == "default" else ""
        cells = [choice.factor, f"{bold}{choice.value}{bold}"]
        for task, of_task, over in zip(TASKS, scores, differences):
            values = of_task[choice.name] if choice.factor in task.factors else []
            cells.append(f"{statistics.mean(values):.1f}" if values else "")
            if len(values) > 1:
                cells[-1] += f" ({statistics.stdev(values):.1f})"
            cells.append(over.get(choice.name, "") if values else "")
        row = costs.get(choice.name)
        if row:
            ratio = row["forward_ms"] / row["plain_forward_ms"]
            cells += [f"{row['parameters'] / 1e6:.2f}", f"{row['flops'] / 1e9:.1f}"]
            cells += [f"{row['forward_ms']:.0f} ({ratio:.2f})", f"{row['forward_mb']:.0f}"]
        else:
            cells += [""] * 4
        rows.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def plot(scores: list[Scores], costs: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot a column per factor: every seed's AP on every task above, latency over plain's below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = {name: [c for c in choices() if c.factor == name] for name in FACTORS}
    widths = [max(4, len(group)) for group in groups.values()]
    figure, panels = plt.subplots(
        2,
        len(groups),
        figsize=(15, 6),
        sharex="col",
        sharey="row",
        squeeze=False,
        width_ratios=widths,
        constrained_layout=True,
    )
    for (above, below), (factor, group) in zip(panels.T, groups.items()):
        for task, of_task, style in zip(TASKS, scores, ("oC0", "^C2")):
            if factor in task.factors:
                points = [(n, ap) for n, choice in enumerate(group) for ap in of_task[choice.name]]
                places, values = zip(*points) if points else ((), ())
                above.plot(places, values, style, alpha=0.6, label=task.dataset.name)
        above.set_title(factor)
        above.grid(axis="y", alpha=0.3)
        for place, choice in enumerate(group):
            row = costs.get(choice.name)
            if row:
                below.bar(place, row["forward_ms"] / row["plain_forward_ms"], color="C1")
        below.axhline(1, color="black", linewidth=1, linestyle="--")
        below.set_xticks(range(len(group)), [c.value.replace(", ", "\n") for c in group])
    first_above, first_below = panels[:, 0]
    first_above.set_ylim(bottom=0)
    first_above.set_ylabel("AP of the seeds, ResNet-18")
    first_above.legend()
    first_below.set_ylabel("latency over the plain\ndetector's, ResNet-50")
    figure.savefig(path, dpi=100)
    plt.close(figure)


# ---- command line --------------------------------------------------------------------------------


def say(line: str) -> None:
    print(line, flush=True)


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "sweep_ratio.py", prog)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("train", train), ("cost", cost), ("report", report)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--engine", **ENGINE_OPTION)
        command.add_argument(
            "--records",
            type=Path,
            default=Path("docs/sweep"),
            metavar="DIR",
            help="folder for the results (default: docs/sweep)",
        )
        if name == "cost":
            command.add_argument("--device", **DEVICE_OPTION)
            command.add_argument(
                "--size",
                type=parse_size,
                default=(640, 640),
                metavar="HxW",
                help="image size in pixels (default: 640x640)",
            )
            continue
        add_run_options(command, seeds=SEEDS, work="output/sweep")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str = "sweep_ratio.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    goes_on = "interrupted; the same command continues"
    return run_command(prog, args.function, args, interrupted=goes_on)
