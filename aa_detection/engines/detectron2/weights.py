"""A trained detector, for whoever runs or exports it."""

import logging

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from ...checkpoints import load_configured
from ...config import default_to_final_weights

_log = logging.getLogger(__name__)


def load_model(cfg: CfgNode, *, allow_pickle: bool = False) -> nn.Module:
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
    _, report = load_configured(
        cfg, model, allow_pickle=allow_pickle, to_use=True, paths=PathManager
    )
    for line in report.lines():
        _log.info("%s", line)
    return model.eval()
