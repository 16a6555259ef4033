"""The papers' image classifiers, built on torchvision's networks, with random weights.

Parameters shared with the plain network keep its names, so
:func:`aa_detection.models.transfer.load_weights` can start a classifier from torchvision's
checkpoint.
"""

from typing import Any

import torchvision
from torch import nn
from torchvision.models.mnasnet import MNASNet

from ..layers.aa_conv import AAConv2d
from .augment import AttentionSpec, augment
from .resnet import STAGE_NAMES
from .wide_resnet import WideResNet


def aa_resnet18(num_classes: int = 1000, image_size: int = 224, merge: str = "concat") -> nn.Module:
    """AA-ResNet-18 whose weights start a detector with ``MODEL.ATTENTION.AA`` at its defaults.

    Not in the paper: κ = 0.2, υ = 0.1, no minimum for the keys, as in the paper's detectors.
    Arguments as :func:`aa_resnet34`.
    """
    resnet = torchvision.models.resnet18(num_classes=num_classes)
    spec = AttentionSpec(conv="aa", merge=merge, max_image_size=image_size, mask_padding="none")
    return augment(resnet, spec)


def aa_resnet34(num_classes: int = 1000, image_size: int = 224, merge: str = "concat") -> nn.Module:
    """AA-ResNet-34 of Bello et al., section 4.2: κ = υ = 0.25, 20.7 M parameters.

    Args:
        image_size: longest image side for which all distances are distinguished. The network runs
            at any size.
        merge: "concat" as published; "add" to start from a plain network's checkpoint, see
            :class:`aa_detection.AAConv2d`.
    """
    return _aa_resnet(34, num_classes, image_size, merge, key_ratio=0.25, value_ratio=0.25)


def aa_resnet50(num_classes: int = 1000, image_size: int = 224, merge: str = "concat") -> nn.Module:
    """AA-ResNet-50 of Bello et al.: κ = 0.2, υ = 0.1, 25.8 M; arguments as :func:`aa_resnet34`."""
    return _aa_resnet(50, num_classes, image_size, merge)


def aa_resnet101(
    num_classes: int = 1000, image_size: int = 224, merge: str = "concat"
) -> nn.Module:
    """AA-ResNet-101 of Bello et al., 45.4 M parameters; arguments as :func:`aa_resnet34`."""
    return _aa_resnet(101, num_classes, image_size, merge)


def aa_resnet152(
    num_classes: int = 1000, image_size: int = 224, merge: str = "concat"
) -> nn.Module:
    """AA-ResNet-152 of Bello et al., 61.6 M parameters; arguments as :func:`aa_resnet34`."""
    return _aa_resnet(152, num_classes, image_size, merge)


def se_resnet50(num_classes: int = 1000) -> nn.Module:
    """SE-ResNet-50 (Hu et al., CVPR 2018): all stages, reduction 16, 28.1 M parameters."""
    return _every_stage(50, num_classes, conv="", gate="se")


def aw_resnet50(num_classes: int = 1000) -> nn.Module:
    """AW-ResNet-50 (arXiv 2108.08205): the 3×3 convolutions of all stages, 25.7 M parameters."""
    return _every_stage(50, num_classes, conv="aw")


def aw_resnet101(num_classes: int = 1000) -> nn.Module:
    """AW-ResNet-101, as :func:`aw_resnet50`."""
    return _every_stage(101, num_classes, conv="aw")


def aa_wide_resnet28_10(num_classes: int = 100, image_size: int = 32) -> WideResNet:
    """AA-Wide-ResNet-28-10 of Bello et al. for CIFAR-100.

    Replaces the first convolution of every block, with κ = 0.2, υ = 0.1, 8 heads and at least 20
    key channels per head. Attention runs at full resolution everywhere, 32×32 in the first stage.
    """

    def first_conv(in_channels: int, out_channels: int, stride: int, size: int) -> nn.Module:
        return AAConv2d(
            in_channels,
            out_channels,
            3,
            stride,
            padding=1,
            bias=False,
            min_key_depth_per_head=20,
            max_size=size,
        )

    return WideResNet(28, 10, num_classes, image_size, first_conv)


def aa_mnasnet(
    num_classes: int = 1000, image_size: int = 224, alpha: float = 1.0, merge: str = "concat"
) -> MNASNet:
    """MnasNet with attention as in Bello et al.: κ = υ = 0.1, 4 heads.

    torchvision's MNASNet is MnasNet-B1, without squeeze and excitation. The paper uses another
    member of the family, so only the change of the parameter count is comparable. This project
    chose which convolutions of which inverted bottlenecks attention joins: the 1×1 expansion, which
    mixes channels at full width (the depthwise one mixes none), where the map has a stride of 16 or
    32, at most 14×14 for a 224×224 image. The keys have no minimum depth.

    Args:
        image_size, merge: as :func:`aa_resnet34`.
        alpha: depth multiplier, as in torchvision.
    """
    network = MNASNet(alpha, num_classes)
    stride = 2  # of the stem
    for stack in network.layers:
        if not isinstance(stack, nn.Sequential):
            continue
        for block in stack:
            layers: Any = block.layers
            expand, depthwise = layers[0], layers[3]
            if stride >= 16:
                layers[0] = AAConv2d(
                    expand.in_channels,
                    expand.out_channels,
                    expand.kernel_size,
                    bias=False,
                    num_heads=4,
                    key_ratio=0.1,
                    value_ratio=0.1,
                    max_size=-(-image_size // stride),
                    merge=merge,
                )
                # torchvision's initialisation of the convolutions of an MNASNet
                nn.init.kaiming_normal_(layers[0].weight, mode="fan_out")
            stride *= depthwise.stride[0]
    return network


def _aa_resnet(
    depth: int, num_classes: int, image_size: int, merge: str, **ratios: Any
) -> nn.Module:
    resnet = getattr(torchvision.models, f"resnet{depth}")(num_classes=num_classes)
    spec = AttentionSpec(
        conv="aa",
        min_key_depth_per_head=20,
        max_image_size=image_size,
        merge=merge,
        mask_padding="none",  # images have one size: a batch is not padded
        **ratios,
    )
    return augment(resnet, spec)


def _every_stage(depth: int, num_classes: int, **kinds: Any) -> nn.Module:
    resnet = getattr(torchvision.models, f"resnet{depth}")(num_classes=num_classes)
    return augment(resnet, AttentionSpec(**kinds, stages=STAGE_NAMES, mask_padding="none"))
