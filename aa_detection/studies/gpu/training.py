"""Short trainings through the command line: half precision, resumed, in a process group."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ..benchmarks.rows import Row
from .plan import Plan
from .section import Clock, Section

CONFIG = "sample/aa_retinanet_R18.yaml"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def training(plan: Plan, device: str, clock: Clock) -> Section:
    """Return rows for a training with AMP, its resumption, and one with SyncBN under torchrun."""
    section = Section("training")
    with tempfile.TemporaryDirectory(prefix="aa_detection_") as name:
        folder = Path(name)
        environment = {**os.environ, "DETECTRON2_DATASETS": str(folder)}
        train, val = map(str, plan.dataset)
        draw = ("draw-dataset", "sample", "--num-train", train, "--num-val", val)
        if _run(section, "draw the sample dataset", draw, environment, clock) is None:
            _train(section, plan, device, clock, folder, environment)
    section.text = _table(section)
    return section


def _train(
    section: Section,
    plan: Plan,
    device: str,
    clock: Clock,
    folder: Path,
    environment: dict[str, str],
) -> None:
    def command(output: str, iterations: int, *options: str) -> tuple[str, ...]:
        keys = {
            "MODEL.DEVICE": device,
            "SOLVER.MAX_ITER": str(iterations),
            "SOLVER.STEPS": "()",
            "SOLVER.CHECKPOINT_PERIOD": str(iterations),
            "OUTPUT_DIR": str(folder / output),
        }
        pairs = [word for pair in keys.items() for word in pair]
        config = ("train", "--config-file", CONFIG, "--engine", plan.engine)
        overrides = tuple(word for word in options if not word.startswith("--"))
        flags = tuple(word for word in options if word.startswith("--"))
        return (*config, *flags, *pairs, *plan.training, *overrides)

    processes = max(1, torch.cuda.device_count()) if device != "cpu" else 1
    amp = ("SOLVER.AMP.ENABLED", "True")
    end = plan.iterations
    for name, output, iterations, prefix, options in (
        ("AMP", "amp", end, ("-m",), amp),
        ("AMP, resumed", "amp", 2 * end, ("-m",), ("--resume", *amp)),
        (
            f"SyncBN, torchrun of {processes}",
            "syncbn",
            end,
            (*TORCHRUN, str(processes), "-m"),
            ("MODEL.RESNETS.NORM", "SyncBN"),
        ),
    ):
        words = command(output, iterations, *options)
        failure = _run(section, name, words, environment, clock, prefix)
        if failure is None:
            _look_at_metrics(section, name, folder / output / "metrics.json", iterations)


def _run(
    section: Section,
    name: str,
    words: tuple[str, ...],
    environment: dict[str, str],
    clock: Clock,
    prefix: tuple[str, ...] = ("-m",),
) -> str | None:
    """Run a command of the package and add its row; return why it failed, or None."""
    row: Row = {"name": name, "command": " ".join(["aa-detection", *words])}
    section.rows.append(row)
    if not clock.left:
        section.left_out.append(f"training: {name}")
        row["note"] = "no time left"
        return row["note"]
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *prefix, "aa_detection", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=clock.left)
        except BaseException as error:  # timeout or Ctrl-C: end its whole process group
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            printed = f"did not end within {time.monotonic() - start:.0f} s"
    row["seconds"] = time.monotonic() - start
    if process.returncode:
        lines = [line for line in printed.splitlines() if line.strip()]
        row["note"] = f"status {process.returncode}: {lines[-1][:160] if lines else ''}"
    section.expect("note" not in row, f"{name}: {row.get('note')}")
    return row.get("note")


def _look_at_metrics(section: Section, name: str, file: Path, iterations: int) -> None:
    """Check that the training resumed where the first ended and finished with finite losses."""
    metrics = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    losses = {m["iteration"]: m["total_loss"] for m in metrics if "total_loss" in m}
    seen = [m["iteration"] for m in metrics if "total_loss" in m]
    last = max(seen, default=-1)
    section.rows[-1] |= {"last_iteration": last, "last_loss": losses.get(last)}
    section.expect(last == iterations - 1, f"{name}: iteration {last} was the last of {iterations}")
    section.expect(len(seen) == len(losses), f"{name}: some iterations were made twice")
    section.expect(all(map(math.isfinite, losses.values())), f"{name}: a loss is not finite")


def _table(section: Section) -> str:
    lines = ["Trainings of a few iterations on the sample dataset."]
    for row in section.rows:
        line = f"  {row['name']:26}"
        line += row.get("note") or f"{row['seconds']:6.1f} s"
        if row.get("last_loss") is not None:
            line += f", loss {row['last_loss']:.3f} at iteration {row['last_iteration']}"
        lines.append(line)
    return "\n".join(lines)
