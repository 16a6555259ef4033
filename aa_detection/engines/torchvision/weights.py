"""A trained detector, for whoever runs or exports it."""

import logging

from fvcore.common.config import CfgNode
from torchvision.models.detection import RetinaNet

from ...checkpoints import load_configured
from ...config import default_to_final_weights
from .model import build_model

_log = logging.getLogger(__name__)


def load_model(cfg: CfgNode, *, allow_pickle: bool = False) -> RetinaNet:
    """The config's detector with its weights, in evaluation mode on ``MODEL.DEVICE``.

    The weights are ``MODEL.WEIGHTS``, or if empty ``OUTPUT_DIR/model_final.pth``. `cfg` stays as it
    is.

    Args:
        allow_pickle: read a ``.pkl`` file, of which arrays only are accepted.

    Raises:
        ConfigError: see :func:`aa_detection.checkpoints.load_configured`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    default_to_final_weights(cfg)
    model = build_model(cfg)
    _, report = load_configured(cfg, model, allow_pickle=allow_pickle, to_use=True)
    for line in report.lines():
        _log.info("%s", line)
    return model.eval().to(cfg.MODEL.DEVICE)
