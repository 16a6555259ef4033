"""Load ``MODEL.WEIGHTS`` into a model, for both engines."""

import logging
import os
from collections.abc import Callable

from fvcore.common.config import CfgNode
from iopath.common.file_io import PathManager
from torch import nn

from ..config import ConfigError, default_to_final_weights
from .loading import fit_checkpoint, load_checkpoint
from .paths import PATHS
from .preprocessing import check_preprocessing
from .reading import Checkpoint, read_checkpoint

_log = logging.getLogger(__name__)


def read_configured(
    cfg: CfgNode,
    model: nn.Module,
    *,
    allow_pickle: bool = False,
    allow_partial: bool = False,
    to_use: bool = False,
    paths: PathManager = PATHS,
) -> Checkpoint:
    """Read ``MODEL.WEIGHTS`` and check that it fits the model that `cfg` describes.

    Args:
        model: not changed.
        allow_pickle, paths: see :func:`.read_checkpoint`.
        allow_partial: see :func:`.load_checkpoint`.
        to_use: the model will not be trained further, so refuse a checkpoint that lacks tensors,
            which would stay random; `allow_partial` accepts it.

    Raises:
        ConfigError: the checkpoint cannot be read, does not fit, expects other image preprocessing
            than `cfg` sets, or is incomplete with `to_use`.
    """
    try:
        checkpoint = read_checkpoint(cfg.MODEL.WEIGHTS, allow_pickle=allow_pickle, paths=paths)
        check_preprocessing(cfg, checkpoint)
        _, report = fit_checkpoint(model, checkpoint, allow_partial=allow_partial)
        if to_use and report.fresh and not allow_partial:
            # a run's config.yaml names the weights from which the run started
            final = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
            there = f": MODEL.WEIGHTS {final}" if os.path.isfile(final) else ""
            raise ConfigError(
                f"{checkpoint.path}: not a trained detector of this configuration: it lacks "
                f"{len(report.fresh)} tensors, {report.fresh[0]} first; expected a run's "
                f"model_final.pth{there}"
            )
    except ConfigError as error:
        raise ConfigError(f"MODEL.WEIGHTS {error}") from None
    return checkpoint


def build_trained(
    cfg: CfgNode,
    build_model: Callable[[CfgNode], nn.Module],
    *,
    allow_pickle: bool = False,
    paths: PathManager = PATHS,
) -> tuple[nn.Module, Checkpoint]:
    """Build the config's detector with its weights, in evaluation mode on ``MODEL.DEVICE``.

    The weights are ``MODEL.WEIGHTS``, or ``OUTPUT_DIR/model_final.pth`` if that is empty. `cfg` is
    not changed.

    Args:
        build_model: the engine's function.
        allow_pickle, paths: see :func:`.read_checkpoint`.

    Returns:
        The detector, and the checkpoint of its weights.

    Raises:
        ConfigError: see :func:`read_configured`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    default_to_final_weights(cfg)
    model = build_model(cfg)
    checkpoint = read_configured(cfg, model, allow_pickle=allow_pickle, to_use=True, paths=paths)
    report = load_checkpoint(model, checkpoint)
    for line in report.lines():
        _log.info("%s", line)
    return model.eval().to(cfg.MODEL.DEVICE), checkpoint
