"""What is refused before training from random weights."""

import pytest

from aa_detection.config import ConfigError, check_training


@pytest.mark.parametrize(
    ("weights", "norm", "freeze_at", "named"),
    [
        ("", "FrozenBN", 0, "MODEL.RESNETS.NORM"),
        ("", "FrozenBN", 2, "MODEL.RESNETS.NORM"),
        ("", "BN", 1, "MODEL.BACKBONE.FREEZE_AT 1"),
        ("", "GN", 2, "MODEL.BACKBONE.FREEZE_AT 2"),
        ("", "BN", 0, None),
        ("", "SyncBN", 0, None),
        ("r50.pkl", "FrozenBN", 2, None),
        ("r50.pkl", "BN", 5, None),
    ],
)
def test_random_weights_need_trainable_layers(cfg, weights, norm, freeze_at, named):
    cfg.MODEL.WEIGHTS = weights
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    if named is None:
        check_training(cfg)
        return
    with pytest.raises(ConfigError) as error:
        check_training(cfg)
    message = str(error.value)
    assert message.startswith(named) and "\n" not in message
    assert "MODEL.WEIGHTS is empty" in message
