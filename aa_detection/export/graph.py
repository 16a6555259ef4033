"""Trace a network to one graph of plain operators, for any batch and image size."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import AAConv2d, AWConv2d


class Features(nn.Module):
    """Module to trace: maps a normalised, zero-padded batch to the backbone's maps by name.

    Args:
        backbone: of either engine; it is copied.
        attention: attention backend in the graph.
    """

    def __init__(self, backbone: nn.Module, attention: str) -> None:
        super().__init__()
        # the padding mask is applied by hooks, which a copy keeps
        self.backbone = copy.deepcopy(backbone).eval()
        for module in self.backbone.modules():
            if isinstance(module, AAConv2d):
                module.backend = attention
            elif isinstance(module, AWConv2d):
                module.grouped = False

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = dict(self.backbone(images))
        layer: Any
        for layer in self.backbone.modules():
            # hooks set it per pass; it must not become state of the graph
            if getattr(layer, "valid_size", None) is not None:
                layer.valid_size = None
        return features


class Predictions(nn.Module):
    """Module to trace: maps a normalised, zero-padded batch to a RetinaNet's raw predictions.

    These are ``(B, A * classes, H, W)`` logits and ``(B, A * 4, H, W)`` box deltas of each level,
    for A anchors per pixel, named as :func:`prediction_names` does.

    Args:
        model: RetinaNet of either engine; it is copied.
        levels: maps of the backbone that the head reads.
        attention: attention backend in the graph.
    """

    def __init__(self, model: nn.Module, levels: Sequence[str], attention: str) -> None:
        super().__init__()
        self.features = Features(model.get_submodule("backbone"), attention)
        self.head: Any = copy.deepcopy(model.get_submodule("head")).eval()
        self.levels = list(levels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features, head = self.features(images), self.head
        predictions = {}
        # one level after the other: detectron2's head has norms that count the levels
        for level in self.levels:
            logits, deltas = prediction_names(level)
            predictions[logits] = head.cls_score(head.cls_subnet(features[level]))
            predictions[deltas] = head.bbox_pred(head.bbox_subnet(features[level]))
        return predictions


def prediction_names(level: str) -> tuple[str, str]:
    """Return the names of a level's logits and box deltas in a traced graph."""
    return f"{level}_logits", f"{level}_deltas"


@dataclass(frozen=True)
class Geometry:
    """Batch sizes that a backbone accepts, and strides of its maps.

    Args:
        size_divisibility: rows and columns of a batch are multiples of it.
        smallest_side: their minimum: two pixels on the coarsest map, pooled attention included,
            because ``torch.export`` treats a size of one as a constant.
        strides: image pixels per map pixel, by map name.
    """

    size_divisibility: int
    smallest_side: int
    strides: dict[str, int]


@torch.no_grad()
def geometry(backbone: nn.Module) -> Geometry:
    """Find the geometry by running the backbone on one empty image."""
    side = 256  # a multiple of every stride in use
    pooled: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, x, out: pooled.append(2 * side // out.shape[-1]))
        for layer in backbone.modules()
        if isinstance(layer, AAConv2d) and layer.pool
    ]
    features = backbone(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    strides = {name: side // feature.shape[-1] for name, feature in features.items()}
    step = getattr(backbone, "size_divisibility", 0) or 32  # torchvision's backbone has none
    coarsest = max([*strides.values(), *pooled])
    return Geometry(step, (coarsest // step + 1) * step, strides)


@torch.no_grad()
def trace(network: nn.Module, geometry: Geometry) -> torch.export.ExportedProgram:
    """Trace :class:`Features` or :class:`Predictions` with dynamic batch, rows and columns."""
    step, smallest = geometry.size_divisibility, geometry.smallest_side
    sides = {
        axis: step * torch.export.Dim(name, min=smallest // step)
        for axis, name in ((2, "height"), (3, "width"))
    }
    return torch.export.export(
        network,
        # sizes that are never 1 and never equal by chance
        (torch.zeros(2, 3, smallest + step, smallest + 3 * step),),
        dynamic_shapes={"images": {0: torch.export.Dim("batch"), **sides}},
        strict=False,
    )
