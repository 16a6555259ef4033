"""Run all sections of the GPU check, write their files and a summary."""

import importlib.util
import json
import platform
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .correctness import correctness
from .detectors import detectors
from .operator import operator
from .plan import Plan
from .section import Clock, Section
from .training import training

# the fraction of the time by which each must have ended: a section gets what earlier ones left
SECTIONS: dict[Callable[[Plan, str, Clock], Section], float] = {
    correctness: 0.28,
    operator: 0.6,
    detectors: 0.8,
    training: 1.0,
}


def check(
    output: Path, device: str, plan: Plan | None = None, say: Callable[[str], None] = print
) -> bool:
    """Run everything and write ``<section>.json`` and ``.txt``, ``summary.json`` and ``.txt``.

    Args:
        output: the folder, created if missing. Existing files of these names are replaced, section
            by section.
        device: "cuda", or "cpu" for tests.
        say: called with one line of progress at a time.

    Returns:
        Whether everything that was tried is correct; speed targets do not count.
    """
    plan = plan or Plan()
    output.mkdir(parents=True, exist_ok=True)
    machine = describe(device)
    title = ", ".join(f"{key} {value}" for key, value in machine.items())
    start = time.monotonic()
    done: list[Section] = []
    for run, end in SECTIONS.items():
        began = time.monotonic()
        section = run(plan, device, Clock(start + end * plan.seconds - began))
        done.append(section)
        _write(output, section.name, {"machine": machine, **asdict(section)}, title, section.text)
        say(f"{section.name}: {_outcome(section)}, {time.monotonic() - began:.0f} s")
    text = _summary(done, time.monotonic() - start)
    summary = {
        "machine": machine,
        "seconds": round(time.monotonic() - start),
        "sections": {x.name: {"checks": x.checks, "failures": x.failures} for x in done},
        "left_out": [line for x in done for line in x.left_out],
        "bars": [bar for x in done for bar in x.bars],
    }
    _write(output, "summary", summary, title, text)
    say(text)
    return not any(section.failures for section in done)


def describe(device: str) -> dict[str, Any]:
    """Describe the machine, in the order of a title."""
    found: dict[str, Any] = {"device": "CPU"}
    if device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        found = {
            "device": properties.name,
            "sm": f"{properties.major}.{properties.minor}",
            "GB": round(properties.total_memory / 1e9),
            "CUDA": torch.version.cuda,
        }
    triton = None
    if importlib.util.find_spec("triton"):
        import triton as module

        triton = module.__version__
    return found | {
        "torch": torch.__version__,
        "triton": triton,
        "python": platform.python_version(),
    }


def folder_name(device_name: str) -> str:
    """Turn a GPU's name into a folder name: ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


def _write(output: Path, name: str, content: dict[str, Any], title: str, text: str) -> None:
    (output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (output / f"{name}.txt").write_text(f"{title}\n\n{text}\n", encoding="utf-8")


def _outcome(section: Section) -> str:
    right = section.checks - len(section.failures)
    left_out = f", {len(section.left_out)} left out for want of time" if section.left_out else ""
    return f"{right} of {section.checks} right{left_out}"


def _summary(sections: list[Section], seconds: float) -> str:
    lines = [f"{section.name:12} {_outcome(section)}" for section in sections]
    for title, of in (("Wrong:", "failures"), ("Left out for want of time:", "left_out")):
        named = [f"  {line}" for section in sections for line in getattr(section, of)]
        lines += ["", title, *named] if named else []
    lines += ["", "Bars:"]
    for bar in (bar for section in sections for bar in section.bars):
        found = "not measured"
        if bar["found"] is not None:
            found = f"{bar['found']:.2f}, {'met' if bar['found'] <= bar['most'] else 'missed'}"
        lines.append(f"  {bar['what']}: at most {bar['most']:.2f}: {found}")
    return "\n".join([*lines, "", f"{seconds:.0f} s"])
