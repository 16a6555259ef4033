"""Wide residual networks for 32×32 images (Zagoruyko and Komodakis, BMVC 2016)."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int, size: int) -> nn.Module:
    """Build a block's first convolution as in the paper; `size` is the side of its output map."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


class PreActivationBlock(nn.Module):
    """Norm, ReLU and convolution, twice, plus the shortcut.

    If the number of channels changes, the shortcut is a 1×1 convolution of the activated input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        size: int,
        first_conv: Callable[[int, int, int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = first_conv(in_channels, out_channels, stride, size)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, 1, size)
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(x).relu()
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return self.conv2(self.bn2(out).relu()) + shortcut


class WideResNet(nn.Module):
    """WRN-depth-width: three stages of ``(depth - 4) / 6`` blocks, 16, 32 and 64 × width channels.

    Args:
        depth: convolutions along the main path; 6n + 4.
        width: the widening factor k.
        image_size: side of the images; determines the map sizes passed to `first_conv`.
        first_conv: makes the first convolution of every block from its input and output channels,
            its stride and the side of its output map.

    Shapes:
        ``(B, 3, H, W)`` to ``(B, num_classes)``.

    Raises:
        ValueError: depth is not 6n + 4.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 100,
        image_size: int = 32,
        first_conv: Callable[[int, int, int, int], nn.Module] = conv3x3,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 4, got {depth}")
        self.conv1 = conv3x3(3, 16, 1, image_size)
        channels, size = 16, image_size
        stages: list[list[PreActivationBlock]] = []
        for out_channels, first_stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            stages.append([])
            for stride in (first_stride, *[1] * (blocks - 1)):
                size = -(-size // stride)
                block = PreActivationBlock(channels, out_channels, stride, size, first_conv)
                stages[-1].append(block)
                channels = out_channels
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*stage) for stage in stages)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        nn.init.zeros_(self.fc.bias)
        # the network's convolutions, not the projections inside attention layers
        _initialise(self.conv1)
        for block in chain(*stages):
            for conv in (block.conv1, block.conv2, block.shortcut):
                _initialise(conv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(torch.mean(self.bn(x).relu(), dim=(2, 3)))


def _initialise(conv: nn.Module | None) -> None:
    weight = getattr(conv, "weight", None)
    if weight is not None:
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
