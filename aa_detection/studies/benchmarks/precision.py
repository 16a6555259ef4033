"""Speed and errors of AA-RetinaNet's inference in bfloat16 and INT8 on the CPU."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..timing import in_fresh_process, take_turns, without_gradients
from .detector import random_detector
from .rows import Row, by_size, map_size

SIZES = ((640, 640),)
PART, WHOLE = "backbone and pyramid", "whole detector"
EXACT, BFLOAT16 = "float32, PyTorch", "bfloat16, PyTorch"


def measure(sizes: Sequence[tuple[int, int]], *, batch: int) -> Iterator[list[Row]]:
    """Yield, for every image size, a row for each precision of each part."""
    for height, width in sizes:
        yield in_fresh_process(rows_of, height, width, batch)


def rows_of(height: int, width: int, batch: int) -> list[Row]:
    """Measure the backbone with pyramid, with errors against float32, and the whole detector."""
    from ...engines.torchvision.predict import TorchvisionDetector
    from ...export.check import padded_batch

    options = ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"]
    options += ["INPUT.MIN_SIZE_TEST", str(min(height, width))]
    options += ["INPUT.MAX_SIZE_TEST", str(max(height, width))]
    cfg, model = random_detector("AA-RetinaNet-R50", "cpu", *options)
    pixels = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # give the norms the statistics of these images
        model.backbone.train()(padded_batch(2, 320, 448, *pixels))
    model.eval()

    images = padded_batch(batch, height, width, *pixels)
    with tempfile.TemporaryDirectory() as folder:
        networks = in_precisions(model.backbone, pixels, Path(folder))
    features = {name: network(images) for name, network in networks.items()}
    pictures = [np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)] * batch
    exact = TorchvisionDetector(cfg, model)
    rounded = TorchvisionDetector(cfg, copy.deepcopy(model), bfloat16=True)
    cases: dict[tuple[str, str], Callable[[], Any]] = {
        (PART, name): partial(network, images) for name, network in networks.items()
    }
    cases[WHOLE, EXACT] = partial(exact, pictures)
    cases[WHOLE, BFLOAT16] = partial(rounded, pictures)
    times = take_turns({key: without_gradients(case) for key, case in cases.items()}, "cpu")
    rows = []
    for part, name in cases:
        row: Row = {"part": part, "name": name, "height": height, "width": width}
        row["forward_ms"] = times[part, name]["forward_ms"]
        if part == PART:
            row["error"] = relative_error(features[name], features[EXACT])
        rows.append(row)
    return rows


def in_precisions(
    backbone: nn.Module, pixels: tuple[Sequence[float], Sequence[float]], folder: Path
) -> dict[str, Callable[[Tensor], dict[str, Tensor]]]:
    """Return functions of a normalised batch, by name; ONNX files go to `folder`."""
    from onnxruntime import quantization

    from ...export.check import padded_batch
    from ...export.formats import FORMATS
    from ...export.graph import Features, geometry, trace

    def torch_network(dtype: torch.dtype) -> Callable[[Tensor], dict[str, Tensor]]:
        @torch.no_grad()
        def network(images: Tensor) -> dict[str, Tensor]:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                return backbone(images)

        return network

    class Images(quantization.CalibrationDataReader):
        """The calibration data for the ranges of activations."""

        def __init__(self) -> None:
            sizes = ((640, 640), (480, 640))
            self.batches = iter([padded_batch(1, *size, *pixels) for size in sizes])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    onnx = FORMATS["onnx"]
    exact, dynamic, static = (folder / f"{name}.onnx" for name in ("exact", "dynamic", "static"))
    onnx.write(trace(Features(backbone, onnx.attention), geometry(backbone)), {}, exact)
    # onnxruntime's convolutions with other types, including the defaults, are far slower on x86
    types = quantization.QuantType
    quantization.quantize_dynamic(exact, dynamic, weight_type=types.QUInt8)
    quantization.quantize_static(
        exact,
        static,
        Images(),
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=types.QUInt8,
        weight_type=types.QInt8,
    )
    return {
        EXACT: torch_network(torch.float32),
        BFLOAT16: torch_network(torch.bfloat16),
        "float32, onnxruntime": onnx.read(exact),
        "INT8 dynamic, onnxruntime": onnx.read(dynamic),
        "INT8 static, onnxruntime": onnx.read(static),
    }


def relative_error(features: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the RMS of the difference relative to the RMS of the map, for the worst map."""
    return max(
        ((features[name].float() - x).square().mean() / x.square().mean()).sqrt().item()
        for name, x in expected.items()
    )


def table(rows: list[Row]) -> str:
    """Format the figures as text, size by size."""
    lines = [
        "AA-RetinaNet-R50, random weights. Milliseconds, in brackets times PyTorch's float32;",
        "error: root mean square over that of the map, the worst map's.",
    ]
    for group in by_size(rows):
        for row in group:
            if row["name"] == EXACT:
                exact = row
                lines += [
                    "",
                    f"{map_size(row)}, {row['part']:22}{'inference, ms':>20}{'error':>10}",
                ]
            ratio = f"({row['forward_ms'] / exact['forward_ms']:.2f})"
            error = f"{row['error']:10.1e}" if "error" in row else ""
            lines.append(f"  {row['name']:29}{row['forward_ms']:11.0f} {ratio:>8}{error}")
    return "\n".join(lines)
