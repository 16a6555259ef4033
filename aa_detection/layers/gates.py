"""Gates: attention that weights the channels, or channels and pixels, of a block's output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.positions import real_pixels

# Initial value of a gate's last bias. It opens the gate to about 0.9, so that a network with the
# weights of a plain checkpoint starts near the plain network; 0.5 would halve every branch.
_OPEN = 2.0


class SqueezeExcitation(nn.Module):
    """Squeeze and excitation: weights channels by the whole map's content (Hu et al., CVPR 2018).

    Average over the map, reduce the channels by a pointwise convolution, apply ReLU, restore them
    by a second one, apply a sigmoid. Both convolutions have biases. The parameters have the names
    of torchvision's layer of this name. Unlike that layer, this one can ignore the padding of a
    batch.

    Args:
        reduction: channels over the channels between the two convolutions.

    Attributes:
        valid_size: None, or ``(B, 2)`` integers, the number of real rows and columns of each
            image's map; the average ignores the rest.

    Shapes:
        ``(B, channels, H, W)`` to the same.

    Raises:
        ValueError: a reduction below 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.valid_size: Tensor | None = None
        self.fc1, self.fc2 = _reduce_and_restore(channels, reduction)
        nn.init.constant_(self.fc2.get_parameter("bias"), _OPEN)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _mean(x, _real(x, self.valid_size))
        return x * self.fc2(self.fc1(pooled).relu()).sigmoid()


class CBAM(nn.Module):
    """Convolutional block attention module: channels, then pixels (Woo et al., ECCV 2018).

    A two-layer network is applied to the map's average and to its maximum; the sigmoid of the sum
    weights the channels. A 7×7 convolution over the average and the maximum of the weighted
    channels, and a sigmoid, weight the pixels. The paper does not specify that convolution's norm;
    here it has a bias and no norm.

    Args:
        reduction: channels over the channels between the two layers of the channels' network.

    Attributes:
        valid_size: None, or ``(B, 2)`` integers, the number of real rows and columns of each
            image's map. Averages and maxima ignore the rest, and the 7×7 convolution reads it as
            zero, like the area beyond the border of a map.

    Shapes:
        ``(B, channels, H, W)`` to the same.

    Raises:
        ValueError: a reduction below 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.valid_size: Tensor | None = None
        self.fc1, self.fc2 = _reduce_and_restore(channels, reduction)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)
        nn.init.constant_(self.fc2.get_parameter("bias"), _OPEN / 2)  # it is added twice
        nn.init.constant_(self.spatial.get_parameter("bias"), _OPEN)

    def forward(self, x: Tensor) -> Tensor:
        real = _real(x, self.valid_size)
        pooled = (_mean(x, real), _max(x, real))
        x = x * sum(self.fc2(self.fc1(p).relu()) for p in pooled).sigmoid()
        maps = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        if real is not None:
            maps = maps.masked_fill(~real, 0)
        return x * self.spatial(maps).sigmoid()


# keyed by `MODEL.ATTENTION.GATE`, where "" means no gate
GATES = {"se": SqueezeExcitation, "cbam": CBAM}


def _reduce_and_restore(channels: int, reduction: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    if reduction < 1:
        raise ValueError(f"reduction must be at least 1, got {reduction}")
    reduced = max(1, channels // reduction)
    return nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)


def _real(x: Tensor, valid_size: Tensor | None) -> Tensor | None:
    """Return ``(B, 1, H, W)`` booleans, or None if all pixels are real."""
    return None if valid_size is None else real_pixels(valid_size, *x.shape[2:])[:, None]


def _mean(x: Tensor, real: Tensor | None) -> Tensor:
    """Reduce ``(B, C, H, W)`` to ``(B, C, 1, 1)``; 0 for an image without real pixels."""
    if real is None:
        return F.adaptive_avg_pool2d(x, 1)
    # sum in float32: the sum over a large map overflows float16
    total = x.masked_fill(~real, 0).sum(
        (2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    )
    return (total / real.sum((2, 3), keepdim=True).clamp(min=1)).to(x.dtype)


def _max(x: Tensor, real: Tensor | None) -> Tensor:
    """Reduce ``(B, C, H, W)`` to ``(B, C, 1, 1)``; 0 for an image without real pixels."""
    if real is None:
        return x.amax((2, 3), keepdim=True)
    largest = x.masked_fill(~real, -torch.inf).amax((2, 3), keepdim=True)
    return torch.where(real.any(3, keepdim=True).any(2, keepdim=True), largest, 0)
