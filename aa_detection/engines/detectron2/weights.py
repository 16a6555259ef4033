"""A trained detector, for whoever runs or exports it."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ...config import ConfigError, default_to_final_weights
from .checkpoint import AACheckpointer


def load_model(cfg: CfgNode, *, allow_pickle: bool = False) -> nn.Module:
    """The config's detector with its weights, in evaluation mode on ``MODEL.DEVICE``.

    The weights are ``MODEL.WEIGHTS``, or if empty ``OUTPUT_DIR/model_final.pth``. `cfg` stays as it
    is.

    Args:
        allow_pickle: read a ``.pkl`` file.

    Raises:
        ConfigError: no such file, or one that cannot be read or does not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    default_to_final_weights(cfg)
    if cfg.MODEL.WEIGHTS.endswith(".pkl") and not allow_pickle:
        raise ConfigError(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}: a pickle is read with allow_pickle")
    model = build_model(cfg)
    AACheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model.eval()
