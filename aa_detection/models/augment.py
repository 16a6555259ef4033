"""Add attention to the blocks of an existing ResNet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..attention.functional import BACKENDS
from ..layers.aa_conv import MERGES, AAConv2d, attention_depths
from ..layers.aw_conv import AWConv2d
from ..layers.gates import GATES
from .padding import MASKS, mask_padding
from .resnet import (
    STAGE_NAMES,
    blocks_with_stride,
    branch_end,
    convs_with_stride,
    is_frozen_norm,
    norm_beside,
    spatial_conv_name,
    stages,
)

# detectron2's or torchvision's; this module imports neither
ResNet = TypeVar("ResNet", bound=nn.Module)


@dataclass(frozen=True)
class AttentionSpec:
    """Which attention to add where. The defaults are the paper's detection networks.

    Args:
        conv: replacement for the 3×3 convolution of a bottleneck or the first 3×3 convolution of a
            basic block: "" none, "aa" an :class:`aa_detection.AAConv2d`, "aw" an
            :class:`aa_detection.AWConv2d`, or another name in :data:`CONVS`.
        gate: weights a block's output before the shortcut is added: "" none, "se" a
            :class:`aa_detection.layers.SqueezeExcitation`, "cbam" a
            :class:`aa_detection.layers.CBAM`, or another name in
            :data:`aa_detection.layers.GATES`.
        stages: stages whose blocks are changed, among res2, res3, res4, res5.
        num_heads, key_ratio, value_ratio, min_key_depth_per_head: see
            :class:`aa_detection.AAConv2d`.
        merge, relative, absolute, backend: see the same class.
        pool_stages: stages whose attention runs at half the resolution.
        max_image_size: longest image side, in pixels, for which all distances are distinguished; an
            attention map of stride s gets distance tables for ``ceil(max_image_size / s)``.
        aw_reduction: see :class:`aa_detection.AWConv2d`.
        gate_reduction: of either gate.
        mask_padding: what to shield from zero padding, see
            :func:`aa_detection.models.mask_padding`: "none", "attention", "batch" or "all".
            "auto" is "batch" with attention or a gate, and "none" without.
        size_divisibility: the detector pads each image to multiples of it, see
            :func:`aa_detection.models.mask_padding`.

    Raises:
        ValueError: a value out of range; the message begins with the field's name.
    """

    conv: str = "aa"
    gate: str = ""
    stages: Sequence[str] = ("res3", "res4", "res5")
    num_heads: int = 8
    key_ratio: float = 0.2
    value_ratio: float = 0.1
    min_key_depth_per_head: int = 0
    pool_stages: Sequence[str] = ("res3",)
    merge: str = "concat"
    relative: bool = True
    absolute: bool = False
    max_image_size: int = 1344
    mask_padding: str = "auto"
    size_divisibility: int = 32
    backend: str = "auto"
    aw_reduction: int = 16
    gate_reduction: int = 16

    def __post_init__(self) -> None:
        for field, names in (("conv", ("", *CONVS)), ("gate", ("", *GATES))):
            value = getattr(self, field)
            if value not in names:
                choices = ", ".join(map(repr, names))
                raise ValueError(f"{field} must be among {choices}, got {value!r}")
        for field in ("stages", "pool_stages"):
            value = getattr(self, field)
            if isinstance(value, str):
                raise ValueError(f"{field} must be a list of stages, got the text {value!r}")
            for stage in value:
                if stage not in STAGE_NAMES:
                    raise ValueError(
                        f"{field} must be among {', '.join(STAGE_NAMES)}, got {stage!r}"
                    )
        for field in ("max_image_size", "size_divisibility", "aw_reduction", "gate_reduction"):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}")
        for field, known in (
            ("merge", MERGES),
            ("mask_padding", ("auto", *MASKS)),
            ("backend", ("auto", *BACKENDS)),
        ):
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"{field} must be among {', '.join(known)}, got {value!r}")
        # a width that every head count divides: report only what is wrong at any width
        attention_depths(
            4096 * max(1, self.num_heads),
            self.num_heads,
            self.key_ratio,
            self.value_ratio,
            self.min_key_depth_per_head,
        )


def augment(resnet: ResNet, spec: AttentionSpec) -> ResNet:
    """Add attention to a detectron2 or torchvision ResNet, in place.

    Each replacement convolution takes over the filters of the original (an :class:`AAConv2d` that
    concatenates has fewer and takes the first ones), and the norm that follows it stays. There are
    two exceptions for frozen norms. Behind an "aa" that concatenates, a frozen norm has no
    statistics for attention's maps: it passes them on unscaled, ``proj`` starts at zero, and the
    norm keeps its bias for the dropped filters, which is their mean. Behind "aw" and custom
    convolutions, it becomes a trainable batch norm that starts from the frozen statistics.

    A gate becomes the block's child ``gate``, applied by a hook on the branch's last module.
    Everything else stays as it is, including the names of parameters.

    Without attention and gate the network does not change, except for a padding mask if
    `mask_padding` names one. On torchvision's networks ``convert_sync_batchnorm`` drops the hooks
    on norms: convert first.

    Args:
        resnet: ``detectron2.modeling.ResNet`` or ``torchvision.models.ResNet``: 18 … 152, wide
            ResNets, and ResNeXt, whose grouped convolutions work with "aw" and the gates but not
            with "aa".
        spec: which attention to add where.

    Returns:
        `resnet`.

    Raises:
        ValueError: a stage that the network does not have or that is frozen, or a convolution that
            is grouped, for "aa", or too narrow for the heads. The network is then unchanged.
        TypeError: `resnet` is not a ResNet, or it already has replaced convolutions or gates.
    """
    attention = bool(spec.conv or spec.gate)
    mask = spec.mask_padding
    if mask == "auto":
        mask = "batch" if attention else "none"
    if not attention:
        if mask in ("batch", "all"):
            mask_padding(resnet, mask, spec.size_divisibility)
        return resnet
    missing = [name for name in spec.stages if name not in stages(resnet)]
    if missing:
        raise ValueError(
            f"stages: this ResNet has no {missing[0]}, only {', '.join(stages(resnet))}"
        )
    swaps: list[tuple[nn.Module, str, nn.Module]] = []
    gates: list[tuple[nn.Module, nn.Module]] = []
    for stage, block, block_stride in blocks_with_stride(resnet):
        if stage not in spec.stages:
            continue
        name = spatial_conv_name(block)
        conv, stride = next(
            (conv, s) for n, conv, s in convs_with_stride(block, block_stride) if n == name
        )
        _check(conv, block, stage, f"{stage}.{name}", spec)
        if spec.conv:
            swaps.append((block, name, _successor(conv, f"{stage}.{name}", stride, stage, spec)))
        if spec.gate:
            *_, (_, last, _) = convs_with_stride(block, block_stride)
            gate = GATES[spec.gate](last.out_channels, spec.gate_reduction)
            gates.append((block, gate.to(last.weight).train(block.training)))
    for block, name, conv in swaps:
        setattr(block, name, conv)
        beside = getattr(block, norm_beside(name), None)
        if beside is not None:
            beside = _norm_behind(beside, spec)
            setattr(block, norm_beside(name), beside)
        if isinstance(conv, AAConv2d):
            for norm in (conv.norm, beside):
                if is_frozen_norm(norm):
                    _pass_attention(norm, conv)
    for block, gate in gates:
        block.gate = gate
        branch_end(block).register_forward_hook(partial(_apply_gate, gate))
    if mask != "none":
        mask_padding(resnet, mask, spec.size_divisibility)
    return resnet


def _check(conv: Any, block: nn.Module, stage: str, where: str, spec: AttentionSpec) -> None:
    if spec.conv and not isinstance(conv, nn.Conv2d):
        raise TypeError(f"{where} must be a Conv2d, got {type(conv).__name__}")
    if spec.gate and hasattr(block, "gate"):
        raise TypeError(f"{stage} must have no gate yet, got {type(block.gate).__name__}")
    if not conv.weight.requires_grad:
        raise ValueError(
            f"stages: {stage} is frozen, and attention there would keep its random weights; "
            "freeze fewer stages or augment later ones"
        )


def _successor(
    conv: nn.Conv2d, where: str, stride: int, stage: str, spec: AttentionSpec
) -> nn.Module:
    """Return the replacement for `conv`, whose input has the given stride relative to the image."""
    try:
        successor = CONVS[spec.conv](
            spec,
            stage,
            stride * conv.stride[0],
            in_channels=conv.in_channels,
            out_channels=conv.out_channels,
            kernel_size=conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            norm=_norm_behind(getattr(conv, "norm", None), spec),
            activation=getattr(conv, "activation", None),
        )
    except ValueError as error:
        raise ValueError(f"{error} ({where})") from None
    with torch.no_grad():
        for name in ("weight", "bias"):
            kept = getattr(successor, name, None)
            if kept is not None:
                kept.copy_(getattr(conv, name)[: len(kept)])
    return successor.to(conv.weight).train(conv.training)


def _aa_conv(
    spec: AttentionSpec, stage: str, image_stride: int, *, groups: int, **arguments: Any
) -> AAConv2d:
    if groups != 1:
        raise ValueError(
            f'conv: "aa" takes ungrouped convolutions, got {groups} groups: its maps stand for '
            'filters that see all channels; "aw" takes groups'
        )
    pool = stage in spec.pool_stages
    return AAConv2d(
        **arguments,
        num_heads=spec.num_heads,
        key_ratio=spec.key_ratio,
        value_ratio=spec.value_ratio,
        min_key_depth_per_head=spec.min_key_depth_per_head,
        relative=spec.relative,
        absolute=spec.absolute,
        max_size=-(-spec.max_image_size // (image_stride * (2 if pool else 1))),
        pool=pool,
        merge=spec.merge,
        backend=spec.backend,
    )


def _aw_conv(spec: AttentionSpec, stage: str, image_stride: int, **arguments: Any) -> AWConv2d:
    return AWConv2d(**arguments, reduction=spec.aw_reduction)


# Factories for replacement convolutions, keyed by `MODEL.ATTENTION.CONV`, where "" means none. A
# factory is called with the spec, the stage's name, the output's stride relative to the image, and
# as keywords the arguments of nn.Conv2d, `norm` and `activation` (detectron2 has these inside its
# convolutions). The replacement's parameters `weight` and `bias` are filled with the first filters
# of the original; its attribute `valid_size`, if present, is set to each image's real size.
CONVS: dict[str, Callable[..., nn.Module]] = {"aa": _aa_conv, "aw": _aw_conv}


def _apply_gate(
    gate: nn.Module, module: nn.Module, args: tuple[Tensor, ...], out: Tensor
) -> Tensor:
    return gate(out)


def _norm_behind(norm: Any, spec: AttentionSpec) -> Any:
    """Return `norm`, or a batch norm that starts from a frozen one's statistics."""
    if spec.conv == "aa" or not is_frozen_norm(norm):
        return norm
    successor = nn.BatchNorm2d(norm.weight.numel(), eps=norm.eps)
    successor.load_state_dict(norm.state_dict(), strict=False)
    return successor.to(norm.weight).train(norm.training)


@torch.no_grad()
def _pass_attention(norm: Any, conv: AAConv2d) -> None:
    """Make a frozen norm pass on the maps that attention concatenates, which start at its bias."""
    kept = 0 if conv.weight is None else len(conv.weight)
    if kept == conv.out_channels:
        return
    norm.weight[kept:] = 1
    norm.running_mean[kept:] = 0
    norm.running_var[kept:] = 1
    nn.init.zeros_(conv.proj.weight)
