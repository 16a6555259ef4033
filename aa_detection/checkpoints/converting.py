"""Convert a checkpoint's weights to another framework's names."""

from typing import Any

from torch import Tensor

from ..config import ConfigError
from .names import NameClash, to_torchvision
from .preprocessing import strides_in_1x1
from .reading import Checkpoint

LAYOUTS = ("detectron2", "torchvision")


def convert(checkpoint: Checkpoint, layout: str) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return weights by another framework's names, and the metadata of its files.

    Args:
        layout: one of :data:`LAYOUTS`.

    Returns:
        The arguments of :func:`.write_weights`. For detectron2, a ResNet's metadata says who
        trained it and asks for heuristic name matching, as in detectron2's model zoo.

    Raises:
        ConfigError: torchvision has no such network.
    """
    weights = checkpoint.weights
    if layout == "detectron2":
        about: dict[str, Any] = {}
        if checkpoint.author:
            about["__author__"] = checkpoint.author
        if _is_resnet(weights):
            about["matching_heuristics"] = True
        return weights, about
    if not _is_resnet(weights) and "head.cls_score.weight" not in weights:
        raise ConfigError(
            f"{checkpoint.path}: torchvision's names are known for ResNets and RetinaNets; "
            f"this has {next(iter(weights))}"
        )
    if checkpoint.author == "Detectron" and strides_in_1x1(weights):
        raise ConfigError(
            f"{checkpoint.path}: trained with the stride in the 1x1 convolution, and torchvision's "
            "ResNets have it in the 3x3: they would load, and compute something else"
        )
    try:
        return to_torchvision(weights), None
    except (NameClash, ValueError) as error:
        raise ConfigError(f"{checkpoint.path}: {error}") from None


def _is_resnet(weights: dict[str, Tensor]) -> bool:
    return "res2.0.conv1.weight" in weights
