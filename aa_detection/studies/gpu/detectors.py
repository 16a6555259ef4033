"""Time and memory of whole detectors: inference, training step, and the 16 GB recipe."""

import gc

import torch

from ..benchmarks.detector import CONFIGS, model_case
from ..benchmarks.rows import Row, map_size
from ..timing import Case, peak_memory, take_turns
from .plan import Plan, Size
from .section import Clock, Section, first_line

PLAIN, AUGMENTED = CONFIGS
RECIPE = f"{AUGMENTED}, 16 GB recipe"
RECIPE_MB = 16 * 1000**3 / 2**20  # the whole memory of a card sold as 16 GB


def detectors(plan: Plan, device: str, clock: Clock) -> Section:
    """Return a row per detector, size and precision, and one for the recipe's training step."""
    section = Section("detectors")
    for size in plan.images:
        for amp in (False, True):
            if not clock.left:
                section.left_out.append(f"detectors: {size[0]}x{size[1]}, AMP {_on(amp)}")
                continue
            section.rows += _measure(section, size, amp, plan, device)
    section.rows.append(_recipe(section, plan, device))
    _compare(section, plan)
    section.text = _table(section)
    return section


def _measure(section: Section, size: Size, amp: bool, plan: Plan, device: str) -> list[Row]:
    rows, cases = {}, {}
    for name in CONFIGS:
        row = rows[name] = _row(name, size, plan.detector_batch, amp)
        try:
            case = _case(name, size, plan.detector_batch, amp, device)
            for _ in range(2):  # the first time compiles
                row |= peak_memory(case, device)
            cases[name] = case
            section.expect(True, "")
        except Exception as error:
            row["note"] = first_line(error)
            section.expect(False, f"{name}, {size[0]}x{size[1]}, AMP {_on(amp)}: {row['note']}")
    for name, times in take_turns(cases, device, enough_s=4 * plan.case_seconds).items():
        rows[name] |= times
    cases.clear()
    _free(device)
    return [*rows.values()]


def _recipe(section: Section, plan: Plan, device: str) -> Row:
    """Measure a training step of configs/aa_retinanet_R50_1gpu.yaml on its largest images."""
    size, batch = plan.recipe_image, plan.recipe_batch
    row = _row(RECIPE, size, batch, True)
    found = None
    try:
        case = _case(AUGMENTED, size, batch, True, device)
        row |= peak_memory(_training_only(case), device)
        if device != "cpu":  # includes the model, its gradients and the optimizer
            row["reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
            found = row["reserved_mb"] / RECIPE_MB
    except Exception as error:
        row["note"] = first_line(error)
    section.bar("16 GB recipe, peak of memory over 16 GB", found, 1.0)
    section.expect("note" not in row, f"{RECIPE}: {row.get('note')}")
    _free(device)
    return row


def _row(name: str, size: Size, batch: int, amp: bool) -> Row:
    return {"name": name, "height": size[0], "width": size[1], "batch": batch, "amp": amp}


def _case(name: str, size: Size, batch: int, amp: bool, device: str) -> Case:
    case = model_case(name, *size, batch, device)
    dtype = torch.bfloat16 if device == "cpu" else torch.float16

    def run(training: bool) -> None:
        with torch.autocast(device, dtype=dtype, enabled=amp):
            case(training)

    return run


def _training_only(case: Case) -> Case:
    return lambda training: case(True)


def _free(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def _on(amp: bool) -> str:
    return "on" if amp else "off"


def _compare(section: Section, plan: Plan) -> None:
    for size in plan.images:
        for amp in (False, True):
            found = {
                row["name"]: row
                for row in section.rows
                if (row["height"], row["width"], row["amp"]) == (*size, amp)
                and row["name"] != RECIPE
            }
            key = "forward_backward_ms"
            measured = all(key in found.get(name, {}) for name in CONFIGS)
            ratio = found[AUGMENTED][key] / found[PLAIN][key] if measured else None
            what = f"{AUGMENTED}'s step over {PLAIN}'s, {size[0]}x{size[1]}, AMP {_on(amp)}"
            section.bar(what, ratio, 1.1)


def _table(section: Section) -> str:
    columns: dict[str, str] = {
        "inference, ms": "forward_ms",
        "training step, ms": "forward_backward_ms",
        "inference, MB": "forward_mb",
        "training, MB": "forward_backward_mb",
    }
    lines = [
        f"Milliseconds, megabytes over the model's, and in brackets times {PLAIN}.",
        "",
        f"{'image':>9}  {'batch':>5} {'AMP':>4}  {'':18}"
        + "".join(f"{label:>20}" for label in columns),
    ]
    plain: Row = {}
    for row in section.rows:
        if row["name"] == PLAIN:
            plain = row
        line = f"{map_size(row):>9}  {row['batch']:5} {_on(row['amp']):>4}  "
        if row["name"] == RECIPE:
            reserved = f", {row['reserved_mb']:.0f} MB reserved" if "reserved_mb" in row else ""
            line += f"{RECIPE}: "
            line += row.get("note") or f"{row['forward_backward_mb']:.0f} MB{reserved}"
        elif "note" in row:
            line += f"{row['name']:18}  {row['note']}"
        else:
            line += f"{row['name']:18}"
            for key in columns.values():
                over = f"({row[key] / plain[key]:.2f})" if plain.get(key) else ""
                line += f"{row[key]:11.0f} {over:>8}"
        lines.append(line)
    return "\n".join(lines)
