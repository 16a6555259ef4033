#!/usr/bin/env python
"""Time and peak memory of the attention operator and of detectors with it.

    benchmark.py attention      every backend, plain attention as the floor, and timm's layer
    benchmark.py model          AA-RetinaNet against RetinaNet: inference and training step
    benchmark.py maps           attention maps of 20 points, as tools/visualize_attention.py draws
    benchmark.py precision      AA-RetinaNet's inference in bfloat16 and INT8, and its errors

Writes the figures (``.json``), a table of them (``.txt``) and, for attention, a plot (``.png``)
into ``--output``. Times are medians of cases that take turns in one process; memory is the peak
over what is there before, each case in a process of its own. Sizes measured on this machine before
and not again keep their rows. Runs on Linux.
"""

import argparse
import copy
import gc
import io
import json
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aa_detection.attention import relative_attention_2d
from aa_detection.attention.functional import BACKENDS
from aa_detection.models.timing import (
    MIN_TURNS,
    Case,
    in_fresh_process,
    peak_memory,
    seconds_of,
    take_turns,
)

# ---- the operator --------------------------------------------------------------------------------

HEADS, KEY_DEPTH, VALUE_DEPTH = (
    8,
    20,
    3,
)  # per head, of AA-ResNet-50 on ImageNet in its fourth stage
FLOOR = "plain attention"
TIMM, AUTO_LAYER, FLEX = "timm BottleneckAttn", "auto as such a layer", "FlexAttention"
# these hold all logits several times over: 9 GB a copy at 100x168
MATERIALISES, MOST_TOKENS = ("dense", TIMM), 5000
LOGITS_STD = (1, 10, 30, 100)
ATTENTION_SIZES = ("10x10", "20x20", "25x42", "40x40", "50x84", "100x168")


def attention_case(
    name: str, height: int, width: int, std: float, batch: int, device: str, dtype: torch.dtype
) -> Case:
    """`name` at one size, with random inputs that give logits of standard deviation `std`."""
    torch.manual_seed(0)
    make = {"device": device, "dtype": dtype, "requires_grad": True}
    if name in (TIMM, AUTO_LAYER):
        return layer_case(name, torch.randn(batch, 64, height, width, **make))

    # without position terms the logits' variance is that of q
    variance = 1 if name == FLOOR else 3
    q = torch.randn(batch, HEADS, height, width, KEY_DEPTH, device=device) * std / variance**0.5
    q = q.to(dtype).requires_grad_()
    k = torch.randn(batch, HEADS, height, width, KEY_DEPTH, **make)
    if name == FLOOR:
        # as wide as q and k, or PyTorch does not take its fused kernel
        v = torch.randn(batch, HEADS, height * width, KEY_DEPTH, **make)
        q, k = (x.detach().flatten(2, 3).requires_grad_() for x in (q, k))
        return differentiable(F.scaled_dot_product_attention, q, k, v)
    v = torch.randn(batch, HEADS, height, width, VALUE_DEPTH, **make)
    rel_h = torch.randn(2 * height - 1, KEY_DEPTH, **make)
    rel_w = torch.randn(2 * width - 1, KEY_DEPTH, **make)
    if name == FLEX:
        return differentiable(flex_attention(), q, k, v, rel_h, rel_w)

    def attention(*inputs: Tensor) -> Tensor:
        return relative_attention_2d(*inputs, backend=name)

    return differentiable(attention, q, k, v, rel_h, rel_w)


def differentiable(function: Callable[..., Tensor], *inputs: Tensor) -> Case:
    def case(backward: bool) -> None:
        if backward:
            out = function(*inputs)
            torch.autograd.grad(out, inputs, torch.ones_like(out))
        else:
            with torch.no_grad():
                function(*inputs)

    return case


def layer_case(name: str, x: Tensor) -> Case:
    """A layer on 64 channels with its 1x1 convolution for q, k and v."""
    channels, size, options = x.shape[1], x.shape[2:], {"device": x.device, "dtype": x.dtype}
    if name == TIMM:
        from timm.layers.bottleneck_attn import BottleneckAttn

        out_channels = HEADS * VALUE_DEPTH
        layer = BottleneckAttn(
            channels, out_channels, tuple(size), num_heads=HEADS, dim_head=KEY_DEPTH, **options
        )
    else:
        layer = AutoLayer(channels, *size).to(**options)
    parameters = list(layer.parameters())
    return differentiable(lambda x, *_: layer(x), x, *parameters)


class AutoLayer(nn.Module):
    """What timm's layer computes, on any size of map."""

    def __init__(self, channels: int, max_h: int, max_w: int) -> None:
        super().__init__()
        self.depths = [HEADS * KEY_DEPTH, HEADS * KEY_DEPTH, HEADS * VALUE_DEPTH]
        self.qkv = nn.Conv2d(channels, sum(self.depths), 1, bias=False)
        self.rel_h = nn.Parameter(KEY_DEPTH**-0.5 * torch.randn(2 * max_h - 1, KEY_DEPTH))
        self.rel_w = nn.Parameter(KEY_DEPTH**-0.5 * torch.randn(2 * max_w - 1, KEY_DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).split(self.depths, dim=1)
        qkv = [x.unflatten(1, (HEADS, -1)).permute(0, 1, 3, 4, 2) for x in qkv]
        out = relative_attention_2d(*qkv, self.rel_h, self.rel_w)
        return out.permute(0, 1, 4, 2, 3).flatten(1, 2)


def flex_attention() -> Callable[..., Tensor]:
    """PyTorch's compiled attention with the position terms added to its logits."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def attention(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        height, width = q.shape[2:4]
        row, column = (torch.arange(n, device=q.device) for n in (height, width))
        r_h = rel_h[row[None, :] - row[:, None] + height - 1]
        r_w = rel_w[column[None, :] - column[:, None] + width - 1]
        scaled = q * q.shape[-1] ** -0.5
        bias_h = torch.einsum("bhixd,ijd->bhixj", scaled, r_h).flatten(2, 3)
        bias_w = torch.einsum("bhixd,xyd->bhixy", scaled, r_w).flatten(2, 3)

        def add_positions(logit, image, head, query, key):
            at_row, at_column = key // width, key % width
            return (
                logit + bias_h[image, head, query, at_row] + bias_w[image, head, query, at_column]
            )

        q, k, v = (x.flatten(2, 3) for x in (q, k, F.pad(v, (0, 16 - v.shape[-1]))))
        return compiled(q, k, v, score_mod=add_positions)[..., :VALUE_DEPTH]

    return attention


def measure_attention(args: argparse.Namespace) -> Iterator[list[dict]]:
    """For every size, a row for each implementation and standard deviation of the logits."""
    for height, width in args.sizes:
        names = [FLOOR, *BACKENDS, TIMM, AUTO_LAYER] + ([FLEX] if args.device != "cpu" else [])
        if height * width > MOST_TOKENS:
            names = [name for name in names if name not in MATERIALISES]
        kinds = [(name, LOGITS_STD[0]) for name in names]
        kinds += [("auto", std) for std in LOGITS_STD]
        problem = height, width, args.batch, args.device, args.dtype
        times = in_fresh_process(attention_times, kinds, *problem)
        rows = []
        for name, std in kinds:
            row = {"name": name, "height": height, "width": width, "logits_std": std}
            row |= times[name, std]
            if std == LOGITS_STD[0]:
                row |= in_fresh_process(attention_memory, name, *problem)
            rows.append(row)
        yield rows


def attention_times(kinds, height, width, batch, device, dtype):
    options = batch, device, getattr(torch, dtype)
    cases = {(name, std): attention_case(name, height, width, std, *options) for name, std in kinds}
    return take_turns(cases, device)


def attention_memory(name, height, width, batch, device, dtype):
    options = batch, device, getattr(torch, dtype)
    for backward in (False, True):
        attention_case(name, 12, 12, 1.0, *options)(backward)  # what PyTorch allocates once
    return peak_memory(attention_case(name, height, width, 1.0, *options), device)


def attention_table(rows: list[dict]) -> str:
    lines = [
        f"{HEADS} heads, {KEY_DEPTH} key and {VALUE_DEPTH} value channels a head.",
        "Milliseconds and, in brackets, times plain attention (SDPA without positions) of the same",
        "size; megabytes over the inputs. A layer includes its 1x1 convolution of 64 channels.",
        "",
        f"{'map':>7}  {'':22}{'forward':>18}{'+ backward':>19}{'MB forward':>12}{'+ backward':>12}",
    ]
    for group in by_size(rows):
        normal = [row for row in group if row["logits_std"] == LOGITS_STD[0]]
        floor = next(row for row in normal if row["name"] == FLOOR)
        for row in normal:
            line = f"{map_size(row):>7}  {row['name']:22}"
            for key, columns in (("forward_ms", 18), ("forward_backward_ms", 19)):
                ratio = f"({row[key] / floor[key]:.2f})"
                line += f"{row[key]:{columns - 9}.2f} {ratio:>8}"
            lines.append(line + f"{row['forward_mb']:12.1f}{row['forward_backward_mb']:12.1f}")
        lines.append("")
    lines += [
        "auto by the standard deviation of the logits: milliseconds, and times those of the first",
        "",
        f"{'map':>7}  " + "".join(f"{f'{std:g} forward':>18}" for std in LOGITS_STD),
        f"{'':7}  " + "".join(f"{'+ backward':>18}" for _ in LOGITS_STD),
    ]
    for group in by_size(rows):
        auto = [row for row in group if row["name"] == "auto"]
        for label, key in ((map_size(auto[0]), "forward_ms"), ("", "forward_backward_ms")):
            line = f"{label:>7}  "
            for row in auto:
                line += f"{row[key]:9.2f} {f'({row[key] / auto[0][key]:.2f})':>8}"
            lines.append(line)
    return "\n".join(lines)


def plot_attention(rows: list[dict], path: Path) -> None:
    """Time and memory, forward and backward, against the number of tokens, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    for axes, key, label, power in (
        (panels[0], "forward_backward_ms", "forward and backward, ms", 2),
        (panels[1], "forward_backward_mb", "peak memory over the inputs, MB", 1),
    ):
        normal = [row for row in rows if row["logits_std"] == LOGITS_STD[0]]
        for name in dict.fromkeys(row["name"] for row in normal if row["name"] != "auto"):
            points = [
                (row["height"] * row["width"], row[key]) for row in normal if row["name"] == name
            ]
            style = "k--" if name == FLOOR else "o-"
            axes.plot(*zip(*points), style, label=name, markersize=4)
        tokens, values = zip(
            *((row["height"] * row["width"], row[key]) for row in normal if row["name"] == "auto")
        )
        guide = [values[-1] / 2 * (n / tokens[-1]) ** power for n in tokens]
        (line,) = axes.plot(tokens, guide, color="0.8", linewidth=6, zorder=0)
        guides = axes.legend([line], [f"tokens ** {power}"], loc="lower right")
        axes.add_artist(guides)
        axes.set(xscale="log", yscale="log", xlabel="tokens (height x width)", ylabel=label)
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=120)


# ---- the detector --------------------------------------------------------------------------------

CONFIGS = {"RetinaNet-R50": "retinanet_R50.yaml", "AA-RetinaNet-R50": "aa_retinanet_R50.yaml"}
MODEL_SIZES = ("320x320", "640x640", "800x1344")


def random_detector(kind: str, device: str, *overrides: str):
    """``(cfg, model)`` of the embedded engine."""
    from aa_detection.engines.torchvision.config import load_config
    from aa_detection.engines.torchvision.model import build_model

    torch.manual_seed(0)
    config = Path(__file__).parents[1] / "configs" / CONFIGS[kind]
    cfg = load_config(str(config), ["MODEL.WEIGHTS", "", *overrides])
    model = build_model(cfg).to(device)
    for name, module in model.named_modules():
        if name.endswith("bn3"):  # random weights under frozen statistics would overflow
            nn.init.constant_(module.weight, 0.2)
    return cfg, model


def model_case(kind: str, height: int, width: int, batch: int, device: str) -> Case:
    """Inference (False) or a training step (True) of a RetinaNet with random weights."""
    _, model = random_detector(kind, device)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    images = [255 * torch.rand(3, height, width, device=device) for _ in range(batch)]
    corner = torch.rand(8, 2, device=device) * torch.tensor([width, height], device=device) / 2
    boxes = torch.cat([corner, corner + corner.new_tensor([width / 4, height / 4])], dim=1)
    target = {"boxes": boxes, "labels": torch.arange(8, device=device)}

    def case(training: bool) -> None:
        model.train(training)
        if not training:
            with torch.no_grad():
                model(images)
            return
        loss = sum(model(images, [target] * batch).values())
        if not loss.isfinite():
            raise RuntimeError(f"{kind}: the loss is {loss}, and its time would mean nothing")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return case


def measure_model(args: argparse.Namespace) -> Iterator[list[dict]]:
    """For every size, a row for each detector."""
    for height, width in args.sizes:
        problem = height, width, args.batch, args.device
        times = in_fresh_process(model_times, *problem)
        rows = []
        for name in CONFIGS:
            row = {"name": name, "height": height, "width": width, **times[name]}
            rows.append(row | in_fresh_process(model_memory, name, *problem))
        yield rows


def model_times(*problem):
    return take_turns({name: model_case(name, *problem) for name in CONFIGS}, problem[-1])


def model_memory(name, height, width, batch, device):
    for training in (False, True):
        model_case(name, 64, 64, batch, device)(training)  # what PyTorch allocates once
    return peak_memory(model_case(name, height, width, batch, device), device)


def model_table(rows: list[dict]) -> str:
    columns = {
        "inference, ms": "forward_ms",
        "training step, ms": "forward_backward_ms",
        "inference, MB": "forward_mb",
        "training, MB": "forward_backward_mb",
    }
    lines = [
        "Milliseconds, megabytes over the model's, and in brackets times RetinaNet-R50.",
        "",
        f"{'image':>9}  {'':18}" + "".join(f"{label:>20}" for label in columns),
    ]
    for group in by_size(rows):
        for row in group:
            line = f"{map_size(row):>9}  {row['name']:18}"
            for key in columns.values():
                line += f"{row[key]:11.0f} {f'({row[key] / group[0][key]:.2f})':>8}"
            lines.append(line)
    return "\n".join(lines)


# ---- attention maps ------------------------------------------------------------------------------

QUERIES = 20
MAPS_SIZES = ("640x640",)


def maps_steps(height: int, width: int, device: str) -> tuple[Callable, dict[str, Callable], dict]:
    """Plain inference; what visualising the attention of 20 points does, step by step; and where
    the steps leave what they make."""
    from aa_detection.engines.torchvision.predict import TorchvisionDetector
    from aa_detection.visualization.attention_figure import attention_figure
    from aa_detection.visualization.attention_maps import look
    from aa_detection.visualization.attention_page import attention_page

    sizes = ("INPUT.MIN_SIZE_TEST", min(height, width), "INPUT.MAX_SIZE_TEST", max(height, width))
    cfg, model = random_detector("AA-RetinaNet-R50", device, *map(str, sizes))
    detector = TorchvisionDetector(cfg, model.eval())
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (height, width, 3), np.uint8)
    points = (generator.random((QUERIES, 2)) * (width, height)).tolist()
    seen = {}

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


def measure_maps(args: argparse.Namespace) -> Iterator[list[dict]]:
    for height, width in args.sizes:
        row = {"name": "AA-RetinaNet-R50", "height": height, "width": width}
        row |= in_fresh_process(maps_times, height, width, args.device)
        for what in ("inference", "maps", "everything"):
            row |= in_fresh_process(maps_memory, what, height, width, args.device)
        yield [row]


def maps_times(height, width, device):
    inference, steps, seen = maps_steps(height, width, device)
    seconds = defaultdict(list)
    for _ in range(MIN_TURNS):
        for name, step in {"inference": inference, **steps}.items():
            seconds[name].append(seconds_of(lambda _, step=step: step(), False, device))
    times = {f"{name}_ms": 1e3 * statistics.median(taken) for name, taken in seconds.items()}
    return times | {"page_mb": len(seen["page"]) / 1e6}


def maps_memory(what, height, width, device):
    """The peak of plain inference, with the maps, or with the figures and the page as well."""

    def case(size) -> Case:
        inference, steps, _ = maps_steps(*size, device)
        chosen = {
            "inference": [inference],
            "maps": [steps["record"], steps["maps"]],
            "everything": steps.values(),
        }[what]
        return lambda gradients: gradients or [step() for step in chosen]

    case((64, 64))(False)  # what PyTorch allocates once
    gc.collect()  # the small detector: what is freed later would be taken off the peak
    return {f"{what}_mb": peak_memory(case((height, width)), device)["forward_mb"]}


def maps_table(rows: list[dict]) -> str:
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


# ---- lower precision -----------------------------------------------------------------------------

PRECISION_SIZES = ("640x640",)
PART, WHOLE = "backbone and pyramid", "whole detector"
EXACT, BFLOAT16 = "float32, PyTorch", "bfloat16, PyTorch"


def measure_precision(args: argparse.Namespace) -> Iterator[list[dict]]:
    for height, width in args.sizes:
        yield in_fresh_process(precision_rows, height, width, args.batch)


def precision_rows(height: int, width: int, batch: int) -> list[dict]:
    """Rows of the backbone and pyramid, with errors against float32, and of the whole detector."""
    from aa_detection.engines.torchvision.predict import TorchvisionDetector
    from aa_detection.export.check import padded_batch

    options = ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"]
    options += ["INPUT.MIN_SIZE_TEST", str(min(height, width))]
    options += ["INPUT.MAX_SIZE_TEST", str(max(height, width))]
    cfg, model = random_detector("AA-RetinaNet-R50", "cpu", *options)
    pixels = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # the norms take the statistics of these images
        model.backbone.train()(padded_batch(2, 320, 448, *pixels))
    model.eval()

    images = padded_batch(batch, height, width, *pixels)
    with tempfile.TemporaryDirectory() as folder:
        networks = in_precisions(model.backbone, pixels, Path(folder))
    features = {name: network(images) for name, network in networks.items()}
    pictures = [np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)] * batch
    exact = TorchvisionDetector(cfg, model)
    rounded = TorchvisionDetector(cfg, copy.deepcopy(model), bfloat16=True)
    cases = {(PART, name): partial(network, images) for name, network in networks.items()}
    cases[WHOLE, EXACT] = partial(exact, pictures)
    cases[WHOLE, BFLOAT16] = partial(rounded, pictures)
    times = take_turns(
        {key: lambda gradients, case=case: gradients or case() for key, case in cases.items()},
        "cpu",
    )
    rows = []
    for part, name in cases:
        row = {"part": part, "name": name, "height": height, "width": width}
        row["forward_ms"] = times[part, name]["forward_ms"]
        if part == PART:
            row["error"] = relative_error(features[name], features[EXACT])
        rows.append(row)
    return rows


def in_precisions(
    backbone: nn.Module, pixels: tuple, folder: Path
) -> dict[str, Callable[[Tensor], dict[str, Tensor]]]:
    """Functions of a normalised batch, by name; `folder` is where the ONNX files go."""
    from onnxruntime import quantization

    from aa_detection.export.check import padded_batch
    from aa_detection.export.formats import FORMATS
    from aa_detection.export.graph import geometry, trace

    def torch_network(dtype: torch.dtype) -> Callable[[Tensor], dict[str, Tensor]]:
        @torch.no_grad()
        def network(images: Tensor) -> dict[str, Tensor]:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                return backbone(images)

        return network

    class Images(quantization.CalibrationDataReader):
        """What the ranges of activations are taken from."""

        def __init__(self) -> None:
            sizes = ((640, 640), (480, 640))
            self.batches = iter([padded_batch(1, *size, *pixels) for size in sizes])

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    onnx = FORMATS["onnx"]
    exact, dynamic, static = (folder / f"{name}.onnx" for name in ("exact", "dynamic", "static"))
    onnx.write(trace(backbone, onnx.attention, geometry(backbone)), {}, exact)
    # onnxruntime's convolutions of other types, its defaults among them, take far longer on x86
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
    """Root mean square of the difference over that of the map; the worst map's."""
    return max(
        ((features[name].float() - x).square().mean() / x.square().mean()).sqrt().item()
        for name, x in expected.items()
    )


def precision_table(rows: list[dict]) -> str:
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


# ---- command line --------------------------------------------------------------------------------


def by_size(rows: list[dict]) -> list[list[dict]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row["height"], row["width"]].append(row)
    return list(groups.values())


def map_size(row: dict) -> str:
    return f"{row['height']}x{row['width']}"


def parse_size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def describe_machine(args: argparse.Namespace) -> dict:
    if args.device == "cpu":
        info = Path("/proc/cpuinfo").read_text().splitlines()
        device = next((x.split(": ")[1] for x in info if x.startswith("model name")), "CPU")
    else:
        device = torch.cuda.get_device_name()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "batch": args.batch,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__.replace("benchmark.py", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, measure, table, sizes in (
        ("attention", measure_attention, attention_table, ATTENTION_SIZES),
        ("model", measure_model, model_table, MODEL_SIZES),
        ("maps", measure_maps, maps_table, MAPS_SIZES),
        ("precision", measure_precision, precision_table, PRECISION_SIZES),
    ):
        command = commands.add_parser(name)
        command.set_defaults(measure=measure, table=table)
        command.add_argument(
            "--sizes",
            nargs="+",
            type=parse_size,
            metavar="HxW",
            default=[parse_size(x) for x in sizes],
        )
        command.add_argument("--batch", type=int, default=1)
        if name == "precision":
            command.set_defaults(device="cpu", dtype="by row")
        else:
            command.add_argument("--device", default="cpu")
            command.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
        command.add_argument("--output", type=Path, default=Path("docs/benchmark"), metavar="DIR")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str = "benchmark.py") -> int:
    args = parse_args(argv, prog)
    machine, rows = describe_machine(args), []
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / args.command
    if path.with_suffix(".json").exists():
        result = json.loads(path.with_suffix(".json").read_text())
        rows = result["rows"] if result["machine"] == machine else []
    # after every size, so that a run that is stopped leaves what it measured
    for measured in args.measure(args):
        size = map_size(measured[0])
        rows = [row for row in rows if map_size(row) != size] + measured
        rows.sort(key=lambda row: row["height"] * row["width"])
        result = {"machine": machine, "rows": rows}
        path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        table = ", ".join(f"{key} {value}" for key, value in machine.items()) + "\n"
        table += args.table(rows)
        path.with_suffix(".txt").write_text(table + "\n")
    print(table)
    if args.command == "attention":
        plot_attention(rows, path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
