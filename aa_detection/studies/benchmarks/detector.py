"""AA-RetinaNet against RetinaNet: inference and a training step."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from fvcore.common.config import CfgNode
from torch import nn

from ...layers import AAConv2d
from ..timing import Case, in_fresh_process, peak_memory, take_turns
from .rows import Row, by_size, map_size

if TYPE_CHECKING:
    from torchvision.models.detection import RetinaNet

CONFIGS = {"RetinaNet-R50": "retinanet_R50.yaml", "AA-RetinaNet-R50": "aa_retinanet_R50.yaml"}
SIZES = ((320, 320), (640, 640), (800, 1344))


def random_detector(kind: str, device: str, *overrides: str) -> tuple[CfgNode, "RetinaNet"]:
    """Build ``(cfg, model)`` on the embedded engine."""
    from ...engines.torchvision.config import load_config
    from ...engines.torchvision.model import build_model

    torch.manual_seed(0)
    cfg = load_config(CONFIGS[kind], ["MODEL.WEIGHTS", "", *overrides])
    model = build_model(cfg).to(device)
    for name, module in model.named_modules():
        if isinstance(module, AAConv2d):  # "add" starts at zero; precision compares outputs
            module.proj.reset_parameters()
        if name.endswith("bn3"):  # random weights with frozen statistics would overflow
            nn.init.constant_(module.weight, 0.2)
    return cfg, model


def model_case(kind: str, height: int, width: int, batch: int, device: str) -> Case:
    """Return a case: inference (False) or a training step (True) of a random RetinaNet."""
    cfg, model = random_detector(kind, device)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    images = [255 * torch.rand(3, height, width, device=device) for _ in range(batch)]
    corner = torch.rand(8, 2, device=device) * torch.tensor([width, height], device=device) / 2
    boxes = torch.cat([corner, corner + corner.new_tensor([width / 4, height / 4])], dim=1)
    labels = torch.arange(8, device=device) % cfg.MODEL.RETINANET.NUM_CLASSES
    target = {"boxes": boxes, "labels": labels}

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


def measure(sizes: Sequence[tuple[int, int]], *, batch: int, device: str) -> Iterator[list[Row]]:
    """Yield, for every image size, a row for each detector."""
    for height, width in sizes:
        problem = height, width, batch, device
        times = in_fresh_process(times_of, *problem)
        rows = []
        for name in CONFIGS:
            row: Row = {"name": name, "height": height, "width": width, **times[name]}
            rows.append(row | in_fresh_process(memory_of, name, *problem))
        yield rows


def times_of(height: int, width: int, batch: int, device: str) -> dict[str, dict[str, float]]:
    """Measure milliseconds of each detector."""
    problem = height, width, batch, device
    return take_turns({name: model_case(name, *problem) for name in CONFIGS}, device)


def memory_of(name: str, height: int, width: int, batch: int, device: str) -> dict[str, float]:
    """Measure peak megabytes of one detector."""
    for training in (False, True):
        model_case(name, 64, 64, batch, device)(training)  # warm up PyTorch's one-time allocations
    return peak_memory(model_case(name, height, width, batch, device), device)


def table(rows: list[Row]) -> str:
    """Format the figures as text, size by size."""
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
