"""``load_model``: a trained detector for whoever runs or exports it."""

import pytest
import torch

from aa_detection.config import ConfigError
from aa_detection.engines import RunOptions


def test_weights_named_or_the_runs_own(engine, trained, tiny_config, tmp_path):
    output, _ = trained(engine)
    final = output / "model_final.pth"
    saved = torch.load(final, weights_only=True)["model"]
    elsewhere = str(tmp_path / "elsewhere")
    named = tiny_config(engine, "MODEL.WEIGHTS", str(final), "OUTPUT_DIR", elsewhere)
    own = tiny_config(engine, "OUTPUT_DIR", str(output))
    for cfg in (named, own):
        before = cfg.dump()
        cfg.freeze()
        model = engine.load_model(cfg)
        assert cfg.dump() == before
        assert not any(module.training for module in model.modules())
        assert {p.device.type for p in model.parameters()} == {cfg.MODEL.DEVICE}
        assert torch.equal(model.head.cls_score.weight, saved["head.cls_score.weight"])
    assert not (tmp_path / "elsewhere").exists()


def test_no_weights(engine, tiny_config, tmp_path):
    with pytest.raises(ConfigError, match="^MODEL.WEIGHTS is empty, and there is no .*final.pth"):
        engine.load_model(tiny_config(engine, "OUTPUT_DIR", str(tmp_path)))


def test_a_training_checkpoint(torchvision_engine, run, tiny_config, tmp_path):
    """Lightning's, with an optimizer and a loop's state beside the weights."""
    run(torchvision_engine, tmp_path, "SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "2")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    states = [
        torchvision_engine.load_model(
            tiny_config(torchvision_engine, "MODEL.WEIGHTS", str(path))
        ).state_dict()
        for path in (checkpoint, tmp_path / "model_final.pth")
    ]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]) or name.endswith("loss_normalizer"), name


def test_weights_of_another_network(engine, trained, tiny_config, tmp_path):
    weights = torch.load(trained(engine)[0] / "model_final.pth", weights_only=True)["model"]
    half = {name: tensor for name, tensor in weights.items() if ".res5." not in name}
    torch.save(half, tmp_path / "half.pth")
    cfg = tiny_config(engine, "MODEL.WEIGHTS", str(tmp_path / "half.pth"))
    with pytest.raises(ConfigError, match="half.pth: only 2.*% of the backbone's parameters load"):
        engine.load_model(cfg)


def test_a_backbone_is_no_trained_detector(engine, trained, tiny_config, tmp_path):
    """Its head would be random: a fine-tuned run's own config.yaml names such a file."""
    weights = torch.load(trained(engine)[0] / "model_final.pth", weights_only=True)["model"]
    backbone = {name: tensor for name, tensor in weights.items() if ".bottom_up." in name}
    torch.save(backbone, tmp_path / "backbone.pth")
    cfg = tiny_config(engine, "MODEL.WEIGHTS", str(tmp_path / "backbone.pth"))
    message = "backbone.pth: not a trained detector of this configuration: it lacks .* model_final"
    with pytest.raises(ConfigError, match=message):
        engine.load_model(cfg)
    with pytest.raises(ConfigError, match=message):
        engine.run(cfg, RunOptions(eval_only=True))
