"""Tensor names: checkpoints carry detectron2's, so that each engine loads the other's."""

import re

from torch import Tensor, nn

# torchvision's RetinaNet on the left; a lateral block's number is its level's less 3
_RULES = (
    (r"^backbone\.body\.conv1\.", r"backbone.bottom_up.stem.conv1."),
    (r"^backbone\.body\.bn1\.", r"backbone.bottom_up.stem.conv1.norm."),
    (r"^backbone\.body\.layer(\d)\.", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}."),
    (r"^(backbone\.bottom_up\.res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^(backbone\.bottom_up\.res\d\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"^(backbone\.bottom_up\.res\d\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 3}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.", lambda m: f"backbone.fpn_output{int(m[1]) + 3}."),
    (r"^(backbone\.fpn_\w+)\.0\.", r"\1."),
    (r"^(backbone\.fpn_\w+)\.1\.", r"\1.norm."),
    (r"^backbone\.fpn\.extra_blocks\.", r"backbone.top_block."),
)
# detectron2 keeps it outside the model
_OWN_STATE = ("head.loss_normalizer",)


def detectron2_name(name: str) -> str:
    """detectron2's name of a tensor of :func:`.model.build_model`'s RetinaNet."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def to_detectron2(model: nn.Module) -> dict[str, Tensor]:
    """The model's state by detectron2's names."""
    return {
        detectron2_name(name): tensor
        for name, tensor in model.state_dict().items()
        if name not in _OWN_STATE
    }


def from_detectron2(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` by the model's names; a name the model has no use for stays as it is."""
    own = {detectron2_name(name): name for name in model.state_dict()}
    return {own.get(name, name): tensor for name, tensor in weights.items()}
