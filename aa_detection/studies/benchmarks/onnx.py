"""Exported backbones and pyramids in onnxruntime: AA-RetinaNet against RetinaNet."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from ..timing import Case, in_fresh_process, take_turns, without_gradients
from .detector import CONFIGS, random_detector
from .rows import Row, by_size, map_size

SIZES = ((640, 640), (800, 1344))


def measure(sizes: Sequence[tuple[int, int]], *, batch: int) -> Iterator[list[Row]]:
    """Yield, for every image size, a row for each detector's backbone."""
    for height, width in sizes:
        times = in_fresh_process(times_of, height, width, batch)
        yield [{"name": name, "height": height, "width": width, **times[name]} for name in CONFIGS]


def times_of(height: int, width: int, batch: int) -> dict[str, dict[str, float]]:
    """Measure milliseconds of each backbone in PyTorch and in onnxruntime."""
    from ...export.formats import FORMATS
    from ...export.graph import Features, geometry, trace

    onnx = FORMATS["onnx"]
    images = torch.randn(batch, 3, height, width)
    cases: dict[tuple[str, str], Case] = {}
    for name in CONFIGS:
        _, model = random_detector(name, "cpu")
        backbone = model.backbone.eval()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "backbone.onnx"
            onnx.write(trace(Features(backbone, onnx.attention), geometry(backbone)), {}, file)
            network = onnx.read(file)
        cases[name, "torch_ms"] = without_gradients(partial(torch.no_grad()(backbone), images))
        cases[name, "onnx_ms"] = without_gradients(partial(network, images))
    times = take_turns(cases, "cpu")
    return {
        name: {runtime: times[name, runtime]["forward_ms"] for runtime in ("torch_ms", "onnx_ms")}
        for name in CONFIGS
    }


def table(rows: list[Row]) -> str:
    """Format the figures as text, size by size."""
    lines = [
        "Backbone and pyramid, random weights. Milliseconds, in brackets times RetinaNet-R50's.",
        "",
        f"{'image':>9}  {'':18}{'PyTorch':>20}{'onnxruntime':>20}",
    ]
    for group in by_size(rows):
        for row in group:
            line = f"{map_size(row):>9}  {row['name']:18}"
            for key in ("torch_ms", "onnx_ms"):
                line += f"{row[key]:11.0f} {f'({row[key] / group[0][key]:.2f})':>8}"
            lines.append(line)
    return "\n".join(lines)
