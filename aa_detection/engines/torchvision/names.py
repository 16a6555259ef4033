"""Map the embedded RetinaNet's weights to detectron2's names, which its checkpoints use."""

from torch import Tensor, nn

from ...checkpoints.names import detectron2_name

# detectron2 keeps it outside the model
_OWN_STATE = ("head.loss_normalizer",)


def to_detectron2(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of :func:`.model.build_model`'s RetinaNet under detectron2's names."""
    return {
        detectron2_name(name): tensor
        for name, tensor in model.state_dict().items()
        if name not in _OWN_STATE
    }
