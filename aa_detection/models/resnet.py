"""A common view of detectron2's and torchvision's ResNets.

detectron2: ``stem.conv1`` (with its norm inside), stages ``res2`` … ``res5``, norms inside the
convolutions. torchvision: ``conv1``, ``bn1``, stages ``layer1`` … ``layer4``, norms beside the
convolutions as ``bn1``, ``bn2``, ``bn3``. In both, blocks have ``conv1``, ``conv2``, ``stride``
and, if they are bottlenecks, ``conv3``.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

STAGE_NAMES = ("res2", "res3", "res4", "res5")


def stages(resnet: nn.Module) -> dict[str, Iterable[nn.Module]]:
    """Return the network's stages by detectron2's names, in order.

    Raises:
        TypeError: `resnet` is neither a detectron2 nor a torchvision ResNet.
    """
    found = {}
    for number, name in enumerate(STAGE_NAMES, 1):
        stage = getattr(resnet, name, None) or getattr(resnet, f"layer{number}", None)
        if stage is not None:
            found[name] = stage
    if not found:
        raise TypeError(
            "expected a ResNet with stages res2 … res5 (detectron2) or layer1 … layer4 "
            f"(torchvision), got {type(resnet).__name__}"
        )
    return found


def stem(resnet: Any) -> tuple[nn.Module, nn.Module]:
    """Return the module that receives the image and the one that feeds the stem's ReLU."""
    if hasattr(resnet, "stem"):
        return resnet.stem.conv1, resnet.stem.conv1
    return resnet.conv1, resnet.bn1


def blocks_with_stride(resnet: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """Yield ``(stage name, block, stride of the block's input relative to the image)`` in order."""
    stride = 4  # 7×7 convolution and max pooling
    for name, stage in stages(resnet).items():
        for block in stage:
            yield name, block, stride
            stride *= _step(block)


def convs_with_stride(block: nn.Module, stride: int) -> Iterator[tuple[str, Any, int]]:
    """Yield ``(name, convolution, stride of its input)`` along the block's main path."""
    for name in ("conv1", "conv2", "conv3"):
        conv = getattr(block, name, None)
        if conv is not None:
            yield name, conv, stride
            stride *= conv.stride[0]


def spatial_conv_name(block: nn.Module) -> str:
    """Name the convolution the papers replace: a bottleneck's 3×3, a basic block's first 3×3."""
    return "conv2" if hasattr(block, "conv3") else "conv1"


def branch_end(block: nn.Module) -> nn.Module:
    """Return the module whose output a block adds to its shortcut."""
    last = "conv3" if hasattr(block, "conv3") else "conv2"
    return getattr(block, norm_beside(last), getattr(block, last))


def norm_beside(conv_name: str) -> str:
    """Return torchvision's name of the norm that follows a block's convolution."""
    return conv_name.replace("conv", "bn")


def is_frozen_norm(norm: object) -> bool:
    """Return whether `norm` is a frozen batch norm of detectron2 or torchvision."""
    return type(norm).__name__ == "FrozenBatchNorm2d"  # compared by name, to import neither


def _step(block: nn.Module) -> int:
    step = 1
    for _, conv, _ in convs_with_stride(block, 1):
        step *= conv.stride[0]
    return step
