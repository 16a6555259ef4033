"""What ends the building of a detector, in one line."""

import pytest
import torch

from aa_detection.config import ConfigError
from aa_detection.training.failures import RunError


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["MODEL.FPN.IN_FEATURES", "['res9']"], "KeyError: 'res9'"),
        (["MODEL.RESNETS.OUT_FEATURES", "['res9']"], "AssertionError: Available children"),
        (["MODEL.ANCHOR_GENERATOR.NAME", "X"], "KeyError: \"No object named 'X' found"),
    ],
)
def test_what_detectron2_does_not_take(detectron2_engine, tiny_config, overrides, words):
    cfg = tiny_config(detectron2_engine, *overrides)
    with pytest.raises(ConfigError) as error:
        detectron2_engine.build_model(cfg)
    line = str(error.value)
    assert line.startswith(f"detectron2 cannot build this configuration: {words}")
    assert "\n" not in line


def test_a_bug_in_a_backbone_of_ones_own_keeps_its_traceback(detectron2_engine, tiny_config):
    from detectron2.modeling import BACKBONE_REGISTRY

    def build_broken_backbone(cfg, input_shape):
        raise KeyError("mine")

    BACKBONE_REGISTRY.register(build_broken_backbone)
    try:
        cfg = tiny_config(detectron2_engine, "MODEL.BACKBONE.NAME", "build_broken_backbone")
        with pytest.raises(KeyError, match="mine"):
            detectron2_engine.build_model(cfg)
    finally:
        del BACKBONE_REGISTRY._obj_map["build_broken_backbone"]


def test_no_memory_for_the_network(engine, run, tmp_path, monkeypatch):
    def no_memory(*size, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("torch.nn.Conv2d.__init__", no_memory)
    with pytest.raises(RunError) as error:
        run(engine, tmp_path / "out")
    line = str(error.value)
    assert line.startswith("out of memory for the network alone: lower MODEL.FPN.OUT_CHANNELS (64)")
    assert "\n" not in line and not (tmp_path / "out").exists()
