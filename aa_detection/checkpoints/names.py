"""Tensor names: all checkpoints are read into detectron2's, so that both engines load any of them.

Three other layouts are known: torchvision's ResNet; torchvision's RetinaNet, with torchvision's own
head or with the embedded engine's, which uses detectron2's names; and the ResNets and pyramids of
Detectron, detectron2's predecessor on Caffe2.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

# torchvision's names on the left; the number of a lateral block is its level minus 3
_FROM_TORCHVISION = (
    (r"^backbone\.body\.", "backbone.bottom_up."),
    (r"^(backbone\.bottom_up\.|)conv1\.", r"\1stem.conv1."),
    (r"^(backbone\.bottom_up\.|)bn1\.", r"\1stem.conv1.norm."),
    (r"^(backbone\.bottom_up\.|)layer(\d)\.", lambda m: f"{m[1]}res{int(m[2]) + 1}."),
    (r"^((?:backbone\.bottom_up\.|)res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^((?:backbone\.bottom_up\.|)res\d\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"^((?:backbone\.bottom_up\.|)res\d\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
    (r"^fc\.", "linear."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 3}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.", lambda m: f"backbone.fpn_output{int(m[1]) + 3}."),
    (r"^(backbone\.fpn_\w+)\.0\.", r"\1."),
    (r"^(backbone\.fpn_\w+)\.1\.", r"\1.norm."),
    (r"^backbone\.fpn\.extra_blocks\.", "backbone.top_block."),
    (r"^head\.classification_head\.cls_logits\.", "head.cls_score."),
    (r"^head\.regression_head\.bbox_reg\.", "head.bbox_pred."),
    # torchvision before 0.13, whose towers are numbered like detectron2's without norms
    (r"^head\.classification_head\.conv\.(\d+)\.(?=weight|bias)", r"head.cls_subnet.\1."),
    (r"^head\.regression_head\.conv\.(\d+)\.(?=weight|bias)", r"head.bbox_subnet.\1."),
)
_TO_TORCHVISION = (
    (r"^(backbone\.bottom_up\.|)stem\.conv1\.norm\.", r"\1bn1."),
    (r"^(backbone\.bottom_up\.|)stem\.conv1\.", r"\1conv1."),
    (r"^((?:backbone\.bottom_up\.|)res\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
    (r"^((?:backbone\.bottom_up\.|)res\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"^((?:backbone\.bottom_up\.|)res\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
    (r"^(backbone\.bottom_up\.|)res(\d)\.", lambda m: f"{m[1]}layer{int(m[2]) - 1}."),
    (r"^backbone\.bottom_up\.", "backbone.body."),
    (r"^linear\.", "fc."),
    (r"^(backbone\.fpn_\w+)\.norm\.", r"\1.1."),
    (r"^(backbone\.fpn_\w+?\d)\.(?!1\.)", r"\1.0."),
    (r"^backbone\.fpn_lateral(\d)\.", lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 3}."),
    (r"^backbone\.fpn_output(\d)\.", lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 3}."),
    (r"^backbone\.top_block\.", "backbone.fpn.extra_blocks."),
    (r"^head\.cls_score\.", "head.classification_head.cls_logits."),
    (r"^head\.bbox_pred\.", "head.regression_head.bbox_reg."),
)
_TOWERS = (
    ("head.classification_head.conv", "head.cls_subnet"),
    ("head.regression_head.conv", "head.bbox_subnet"),
)
# layers with outputs for each anchor of a pixel
_PER_ANCHOR = ("head.cls_score.", "head.bbox_pred.")
# aspect ratios per anchor size in both frameworks; RetinaNet has three sizes
_RATIOS = 3
_CAFFE2 = (
    (r"_", "."),
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"\.[bg]n\.(?:s|gamma)$", ".norm.weight"),
    (r"\.[bg]n\.(?:bias|beta)$", ".norm.bias"),
    (r"\.bn\.(?:rm|running\.mean)$", ".norm.running_mean"),
    (r"\.bn\.(?:riv|running\.var)$", ".norm.running_var"),
    (r"^res\.conv1\.norm\.", "stem.conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    (r"^(?:fc1000|pred)\.", "linear."),
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
    (r"^fpn\.inner\.res(\d)\.\d+\.sum(?:\.lateral)?\.", r"fpn_lateral\1."),
    (r"^fpn\.res(\d)\.\d+\.sum\.", r"fpn_output\1."),
)


class NameClash(ValueError):
    """Two tensors of a checkpoint map to the same name."""


def detectron2_name(name: str) -> str:
    """Return detectron2's name of a tensor of torchvision's ResNet or the embedded RetinaNet."""
    for pattern, replacement in _FROM_TORCHVISION:
        name = re.sub(pattern, replacement, name)
    return name


def torchvision_name(name: str) -> str:
    """Invert :func:`detectron2_name`, except for torchvision's own head."""
    for pattern, replacement in _TO_TORCHVISION:
        name = re.sub(pattern, replacement, name)
    return name


def is_torchvision_resnet(names: Iterable[str]) -> bool:
    """Return whether the names are those of a torchvision classifier."""
    return "layer1.0.conv1.weight" in names


def is_torchvision_retinanet(names: Iterable[str]) -> bool:
    """Return whether they are torchvision's own RetinaNet's, not the embedded engine's."""
    return any(name.startswith("head.classification_head.") for name in names)


def is_caffe2(names: Iterable[str]) -> bool:
    """Return whether they are those of Detectron's pickles, such as its ImageNet backbones."""
    return any(re.match(r"res\d_\d+_branch", name) for name in names)


def from_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ResNet's or RetinaNet's weights to detectron2's names, with detectron2's anchors.

    Raises:
        NameClash: two tensors map to the same name.
        ValueError: the anchors per pixel are not 3 aspect ratios for each size.
    """
    rename = detectron2_name
    if is_torchvision_retinanet(weights):
        normed = any(".conv.0.1." in name for name in weights)
        rename = partial(_tower_to_detectron2, per_layer=3 if normed else 2)
        predictors = tuple(torchvision_name(prefix) for prefix in _PER_ANCHOR)
        weights = _reorder_anchors(weights, predictors, ratios_first=True)
    return _renamed(weights, rename)


def to_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights from detectron2's names to those of torchvision's ResNet or RetinaNet.

    Raises:
        NameClash, ValueError: as :func:`from_torchvision`.
    """
    normed = "head.cls_subnet.1.weight" in weights
    weights = _reorder_anchors(weights, _PER_ANCHOR, ratios_first=False)
    return _renamed(weights, partial(_tower_to_torchvision, per_layer=3 if normed else 2))


def from_caffe2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of Detectron's model zoo to detectron2's names.

    Their batch norm has only a scale and a bias, so mean 0 and variance 1 are added.

    Raises:
        NameClash: two tensors map to the same name.
    """
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("_momentum")}
    named = _renamed(kept, _caffe2_name)
    for name in kept:
        if name.endswith("_bn_s"):
            norm = _caffe2_name(name).removesuffix("weight")
            scale = kept[name]
            named.setdefault(f"{norm}running_mean", torch.zeros_like(scale))
            named.setdefault(f"{norm}running_var", torch.ones_like(scale))
    return named


def _caffe2_name(name: str) -> str:
    for pattern, replacement in _CAFFE2:
        name = re.sub(pattern, replacement, name)
    return name


def _renamed(weights: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in weights.items():
        new = rename(name)
        if new in renamed:
            raise NameClash(f"{origins[new]} and {name} are both {new} in the other layout")
        renamed[new], origins[new] = tensor, name
    return renamed


def _tower_to_detectron2(name: str, per_layer: int) -> str:
    """Renumber a tower: torchvision counts (layer, conv or norm), detectron2 also counts ReLUs."""
    for theirs, ours in _TOWERS:
        found = re.match(rf"^{re.escape(theirs)}\.(\d+)\.([01])\.", name)
        if found:
            number = int(found[1]) * per_layer + int(found[2])
            return f"{ours}.{number}.{name[found.end() :]}"
    return detectron2_name(name)


def _tower_to_torchvision(name: str, per_layer: int) -> str:
    for theirs, ours in _TOWERS:
        found = re.match(rf"^{re.escape(ours)}\.(\d+)\.", name)
        if found:
            layer, part = divmod(int(found[1]), per_layer)
            return f"{theirs}.{layer}.{part}.{name[found.end() :]}"
    return torchvision_name(name)


def _reorder_anchors(
    weights: dict[str, Tensor], prefixes: tuple[str, ...], *, ratios_first: bool
) -> dict[str, Tensor]:
    """Swap the order of the anchors of a pixel.

    torchvision has all sizes of the first aspect ratio, then of the next. detectron2 has all aspect
    ratios of the first size, then of the next.

    Args:
        prefixes: of the prediction tensors, ``(anchors · values, …)``.
        ratios_first: `weights` are in torchvision's order.
    """
    boxes = weights.get(f"{prefixes[1]}bias")
    if boxes is None:
        return weights
    anchors = len(boxes) // 4
    if not anchors or anchors % _RATIOS or len(boxes) % 4:
        raise ValueError(
            f"{prefixes[1]}bias has {len(boxes)} numbers, which are no boxes of {_RATIOS} aspect "
            "ratios of each size"
        )
    sizes = anchors // _RATIOS
    reordered = dict(weights)
    for name, tensor in weights.items():
        if name.startswith(prefixes):
            if len(tensor) % anchors:
                raise ValueError(
                    f"{name} has {len(tensor)} rows, expected a multiple of its {anchors} anchors"
                )
            grid = (_RATIOS, sizes) if ratios_first else (sizes, _RATIOS)
            values = tensor.unflatten(0, (*grid, len(tensor) // anchors))
            reordered[name] = values.transpose(0, 1).flatten(0, 2).contiguous()
    return reordered
