"""Cost of drawing the attention maps of 20 points of a picture."""

import gc
import io
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..timing import (
    MIN_TURNS,
    Case,
    in_fresh_process,
    peak_memory,
    seconds_of,
    without_gradients,
)
from .detector import random_detector
from .rows import Row, map_size

QUERIES = 20
SIZES = ((640, 640),)

Step = Callable[[], Any]


def maps_steps(
    height: int, width: int, device: str
) -> tuple[Step, dict[str, Step], dict[str, Any]]:
    """Return plain inference, the steps of visualising 20 points' attention, and their results."""
    from ...engines.torchvision.predict import TorchvisionDetector
    from ...inference import look
    from ...visualization.attention_figure import attention_figure
    from ...visualization.attention_page import attention_page

    sizes = ("INPUT.MIN_SIZE_TEST", min(height, width), "INPUT.MAX_SIZE_TEST", max(height, width))
    cfg, model = random_detector("AA-RetinaNet-R50", device, *map(str, sizes))
    detector = TorchvisionDetector(cfg, model.eval())
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (height, width, 3), np.uint8)
    points = (generator.random((QUERIES, 2)) * (width, height)).tolist()
    seen: dict[str, Any] = {}

    def record() -> None:
        seen["detections"], seen["attention"] = look(detector, image)

    def maps() -> None:
        seen["attention"].maps(points)

    def figures() -> None:
        for figure in attention_figure(image, seen["attention"], points):
            figure.save(io.BytesIO(), format="PNG", compress_level=1)

    def page() -> None:
        names = [str(i) for i in range(cfg.MODEL.RETINANET.NUM_CLASSES)]
        arguments = seen["detections"], names, points, "noise"
        seen["page"] = attention_page(image, seen["attention"], *arguments)

    steps = {"record": record, "maps": maps, "figures": figures, "page": page}
    return lambda: detector([image]), steps, seen


def measure(sizes: Sequence[tuple[int, int]], *, device: str) -> Iterator[list[Row]]:
    """Yield a row for every image size."""
    for height, width in sizes:
        row: Row = {"name": "AA-RetinaNet-R50", "height": height, "width": width}
        row |= in_fresh_process(times_of, height, width, device)
        for what in ("inference", "maps", "everything"):
            row |= in_fresh_process(memory_of, what, height, width, device)
        yield [row]


def times_of(height: int, width: int, device: str) -> dict[str, float]:
    """Measure milliseconds of each step, and the size of the page."""
    inference, steps, seen = maps_steps(height, width, device)
    seconds = defaultdict(list)
    for _ in range(MIN_TURNS):
        for name, step in {"inference": inference, **steps}.items():
            seconds[name].append(seconds_of(without_gradients(step), False, device))
    times = {f"{name}_ms": 1e3 * statistics.median(taken) for name, taken in seconds.items()}
    return times | {"page_mb": len(seen["page"]) / 1e6}


def memory_of(what: str, height: int, width: int, device: str) -> dict[str, float]:
    """Measure the peak of plain inference, with the maps, or also with the figures and the page."""

    def case(size: tuple[int, int]) -> Case:
        inference, steps, _ = maps_steps(*size, device)
        chosen = {
            "inference": [inference],
            "maps": [steps["record"], steps["maps"]],
            "everything": steps.values(),
        }[what]
        return without_gradients(lambda: [step() for step in chosen])

    case((64, 64))(False)  # warm up PyTorch's one-time allocations
    gc.collect()  # free the small detector now: freed later, it would be subtracted from the peak
    return {f"{what}_mb": peak_memory(case((height, width)), device)["forward_mb"]}


def table(rows: list[Row]) -> str:
    """Format the figures as text, size by size."""
    lines = [
        f"{QUERIES} points in one image, all heads of all layers; milliseconds, and peak megabytes",
        "over the model's, in brackets times plain inference's.",
    ]
    for row in rows:
        after = row["maps_ms"] + row["figures_ms"] + row["page_ms"]
        lines += [
            "",
            f"{map_size(row)}  {row['name']}",
            f"  plain inference              {row['inference_ms']:7.0f} ms",
            f"  inference, recorded          {row['record_ms']:7.0f} ms",
            f"  after it: maps               {row['maps_ms']:7.0f} ms",
            f"            {QUERIES} figures, as PNG  {row['figures_ms']:7.0f} ms",
            f"            page               {row['page_ms']:7.0f} ms  ({row['page_mb']:.1f} MB)",
            f"            together           {after:7.0f} ms",
        ]
        for what, label in (
            ("inference", "peak: plain inference"),
            ("maps", "      with maps"),
            ("everything", "      with maps, figures, page"),
        ):
            peak = row[f"{what}_mb"]
            lines.append(f"  {label:29}{peak:7.0f} MB  ({peak / row['inference_mb']:.2f})")
    return "\n".join(lines)
