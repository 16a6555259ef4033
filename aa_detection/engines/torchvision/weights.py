"""A trained detector, for whoever runs or exports it."""

from fvcore.common.config import CfgNode
from torchvision.models.detection import RetinaNet

from ...config import ConfigError, default_to_final_weights
from ...models.weights import load_weights
from .model import build_model
from .names import from_detectron2
from .train import read_weights


def load_model(cfg: CfgNode, *, allow_pickle: bool = False) -> RetinaNet:
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
    model = build_model(cfg)
    weights = read_weights(cfg.MODEL.WEIGHTS)
    report = load_weights(model, from_detectron2(model, weights))
    if not report.loaded and not report.sliced:
        raise ConfigError(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}: no tensor of it fits the model")
    return model.eval().to(cfg.MODEL.DEVICE)
