"""What is refused before training."""

import pytest

from aa_detection.config import ConfigError, check_shares, check_training


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


@pytest.mark.parametrize(
    ("batch", "reference", "processes", "named"),
    [
        (16, 0, 8, None),
        (1, 0, 1, None),
        (1, 0, 2, "SOLVER.IMS_PER_BATCH 1 cannot be shared by 2 processes"),
        (16, 0, 3, "SOLVER.IMS_PER_BATCH 16 cannot be shared by 3 processes"),
        (16, 3, 3, "SOLVER.IMS_PER_BATCH 16 cannot be shared by 3 processes"),
        (16, 8, 3, None),  # scaled to 6
        (16, 3, 8, "SOLVER.REFERENCE_WORLD_SIZE 3 must divide SOLVER.IMS_PER_BATCH 16"),
    ],
)
def test_processes_share_the_batch(cfg, batch, reference, processes, named):
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE = batch, reference
    if named is None:
        check_shares(cfg, processes)
        return
    with pytest.raises(ConfigError, match=named):
        check_shares(cfg, processes)
