"""Time and memory of the operator's backends, PyTorch's kernels for "folded", and the floor."""

import contextlib
import gc
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..benchmarks.operator import FLEX, FLOOR, HEADS, attention_case
from ..benchmarks.rows import Row
from ..timing import Case, peak_memory, take_turns
from .plan import Plan, Size
from .section import Clock, Section, dtype_name, first_line

# key and value channels per head in the fourth stage of AA-ResNet-50 on ImageNet
DEPTHS = (20, 3)
# "folded" with each of PyTorch's fused kernels forced
FORCED = {
    "folded, flash": SDPBackend.FLASH_ATTENTION,
    "folded, memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "folded, cuDNN": SDPBackend.CUDNN_ATTENTION,
}
NAMES = (FLOOR, "fused", "folded", *FORCED, "dense")
MOST_LOGITS = 2e9  # dense: 8 GB of float32 a copy
# compiling FlexAttention takes seconds per size
FLEX_BATCH, FLEX_DTYPE = 8, torch.bfloat16
BARS = (("fused", FLOOR, "forward_ms", 1.3), ("fused", FLOOR, "forward_backward_ms", 1.5))


def operator(plan: Plan, device: str, clock: Clock) -> Section:
    """Return a row for every backend, dtype, batch and map."""
    section = Section("operator")
    for batch in plan.batches:
        for dtype in plan.timed_dtypes:
            for size in plan.timed_maps:
                problem = f"{size[0]}x{size[1]}, batch {batch}, {dtype_name(dtype)}"
                if not clock.left:
                    section.left_out.append(f"operator: {problem}")
                    continue
                section.rows += _measure(section, problem, size, batch, dtype, plan, device)
    _compare(section, plan)
    section.text = _table(section)
    return section


def _measure(
    section: Section,
    problem: str,
    size: Size,
    batch: int,
    dtype: torch.dtype,
    plan: Plan,
    device: str,
) -> list[Row]:
    names = list(NAMES)
    if batch * HEADS * (size[0] * size[1]) ** 2 > MOST_LOGITS:
        names.remove("dense")
    if (batch, dtype) == (FLEX_BATCH, FLEX_DTYPE) and device != "cpu":
        names.append(FLEX)
    rows: dict[str, Row] = {}
    cases: dict[str, Case] = {}
    for name in names:
        row = rows[name] = {
            "name": name,
            "height": size[0],
            "width": size[1],
            "batch": batch,
            "dtype": dtype_name(dtype),
        }
        try:
            case = _case(name, size, batch, device, dtype)
            for _ in range(2):  # the first time compiles
                row |= peak_memory(case, device)
            cases[name] = case
        except Exception as error:  # no such kernel on this GPU, or out of memory
            row["note"] = first_line(error)
            # our own kernel must run; PyTorch's depend on the GPU
            section.expect(name != "fused", f"{name}, {problem}: {row['note']}")
        _free(device)
    for name, times in take_turns(cases, device, enough_s=plan.case_seconds).items():
        rows[name] |= times
        section.expect(True, "")
    return [*rows.values()]


def _case(name: str, size: Size, batch: int, device: str, dtype: torch.dtype) -> Case:
    kernel = FORCED.get(name)
    case = attention_case(
        "folded" if kernel else name, *size, DEPTHS, std=1, batch=batch, device=device, dtype=dtype
    )

    def run(backward: bool) -> None:
        # FlexAttention is measured in the forward pass only
        with sdpa_kernel(kernel) if kernel else contextlib.nullcontext():
            case(backward and name != FLEX)

    return run


def _free(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def _compare(section: Section, plan: Plan) -> None:
    """Check the project's speed targets at the plan's first batch, dtype and map."""
    rows: dict[str, Row] = {
        row["name"]: row
        for row in section.rows
        if (row["height"], row["width"]) == plan.timed_maps[0]
        and row["batch"] == plan.batches[0]
        and row["dtype"] == dtype_name(plan.timed_dtypes[0])
    }

    def ratio(name: str, over: str, key: str) -> float | None:
        if key in rows.get(name, {}) and key in rows.get(over, {}):
            return rows[name][key] / rows[over][key]
        return None

    for name, over, key, most in BARS:
        what = {"forward_ms": "forward", "forward_backward_ms": "forward and backward"}[key]
        section.bar(f"{name} over {over}, {what}", ratio(name, over, key), most)
    section.bar("fused over folded, forward", ratio("fused", "folded", "forward_ms"), 1 / 2.5)


def _table(section: Section) -> str:
    lines = [
        f"{HEADS} heads, {DEPTHS[0]} key and {DEPTHS[1]} value channels a head; plain attention: "
        f"{DEPTHS[0]} and {DEPTHS[0]}.",
        "Milliseconds and, in brackets, times plain attention (SDPA without positions) of the same",
        "size; megabytes over the inputs. FlexAttention: forward alone.",
    ]
    groups: dict[Any, list[Row]] = {}
    for row in section.rows:
        problem = row["dtype"], row["batch"], row["height"], row["width"]
        groups.setdefault(problem, []).append(row)
    for (dtype, batch, height, width), rows in groups.items():
        title = f"{dtype}, batch {batch}, {height}x{width}"
        lines += ["", f"{title:27}{'forward':>18}{'+ backward':>19}{'MB':>10}{'+ backward':>12}"]
        floor = next((row for row in rows if row["name"] == FLOOR), {})
        for row in rows:
            line = f"  {row['name']:25}"
            if "note" in row:
                lines.append(f"{line}  {row['note']}")
                continue
            for key, columns in (("forward_ms", 18), ("forward_backward_ms", 19)):
                over = f"({row[key] / floor[key]:.2f})" if key in floor else ""
                line += f"{row[key]:{columns - 9}.3f} {over:>8}"
            lines.append(line + f"{row['forward_mb']:10.1f}{row['forward_backward_mb']:12.1f}")
    return "\n".join(lines)
