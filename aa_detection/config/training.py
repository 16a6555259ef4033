"""Settings that build but cannot train."""

from fvcore.common.config import CfgNode

from .loading import ConfigError


def check_training(cfg: CfgNode) -> None:
    """Refuse to train from random weights what must come from a checkpoint.

    Raises:
        ConfigError: names the keys to set.
    """
    if cfg.MODEL.WEIGHTS:
        return
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        raise ConfigError(
            "MODEL.RESNETS.NORM FrozenBN needs a checkpoint's statistics, but MODEL.WEIGHTS is "
            "empty: name a checkpoint, or set MODEL.RESNETS.NORM to BN, SyncBN or GN"
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT {cfg.MODEL.BACKBONE.FREEZE_AT} would keep random weights: "
            "MODEL.WEIGHTS is empty; name a checkpoint, or set MODEL.BACKBONE.FREEZE_AT to 0"
        )
