"""What the embedded engine honours, and that it refuses the rest by name."""

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import ConfigError
from aa_detection.config.detectron2_keys import (
    NOT_OF_A_RETINANET,
    detectron2_only,
    honoured,
    nested,
)
from aa_detection.config.loading import leaf_keys

from .conftest import ROOT, TINY

DIFFERENT_DEFAULTS = {
    # a RetinaNet is all this engine has; docs/configuration.md lists them
    "MODEL.META_ARCHITECTURE",
    "MODEL.BACKBONE.NAME",
    "MODEL.RESNETS.OUT_FEATURES",
    "MODEL.FPN.IN_FEATURES",
}


def value(cfg, name):
    for part in name.split("."):
        cfg = cfg[part]
    return cfg


def test_defaults_are_detectron2s():
    detectron2_config = pytest.importorskip(
        "detectron2.config", reason="detectron2 is not installed"
    )
    theirs = detectron2_config.get_cfg()
    for name, key in {**honoured(), **detectron2_only()}.items():
        if name not in DIFFERENT_DEFAULTS:
            assert key.default == value(theirs, name), name


def test_every_key_of_detectron2_is_known():
    detectron2_config = pytest.importorskip(
        "detectron2.config", reason="detectron2 is not installed"
    )
    groups = tuple(f"MODEL.{name}." for name in NOT_OF_A_RETINANET)
    for name in leaf_keys(detectron2_config.get_cfg()):
        known = (name in honoured(), name in detectron2_only(), name.startswith(groups))
        assert sum(known) == 1, name


@pytest.mark.parametrize("name", ["retinanet_R18", "aa_retinanet_R18"])
def test_config_of_a_detectron2_run(torchvision_engine, detectron2_engine, run, tmp_path, name):
    """Its config.yaml names every key; what it says is what this engine's own would."""
    file = str(ROOT / f"configs/sample/{name}.yaml")
    overrides = ["SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path)]
    run(detectron2_engine, tmp_path, "SOLVER.MAX_ITER", "1", config=file)
    written = tmp_path / "config.yaml"
    assert "ROI_BOX_HEAD" in written.read_text()
    cfg = torchvision_engine.load_config(str(written))
    assert cfg == torchvision_engine.load_config(file, [*TINY, *overrides])
    assert torchvision_engine.load_config(str(written), ["MODEL.WEIGHTS", "a"]).MODEL.WEIGHTS == "a"


def test_every_default_of_detectron2_but_the_network(torchvision_engine, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        CfgNode({**nested(detectron2_only()), "OUTPUT_DIR": "x"}).dump() + "_BASE_: rcnn.yaml\n"
    )
    (tmp_path / "rcnn.yaml").write_text(
        "MODEL: {ROI_HEADS: {NUM_CLASSES: 3, NAME: Res5}, RPN: {NMS_THRESH: 0.5},"
        " KEYPOINT_ON: True}\nTEST: {AUG: {ENABLED: True}}\n"  # both back at their defaults above
    )
    cfg = torchvision_engine.load_config(str(config))
    assert set(honoured()) <= set(leaf_keys(cfg))
    assert "ROI_HEADS" not in cfg.MODEL and "AUG" not in cfg.TEST and "GLOBAL" not in cfg


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "MODEL.ROI_HEADS.NUM_CLASSES needs detectron2"),
        (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED True needs detectron2"),
        (["INPUT.CROP.ENABLED", "True"], "INPUT.CROP.ENABLED True needs detectron2"),
        (["MODEL.RESNETS.STEM_OUT_CHANNELS", "32"], "STEM_OUT_CHANNELS 32 needs detectron2"),
        (
            ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"],
            "expected 'RetinaNet' on the torchvision engine",
        ),
        (["MODEL.RESNETS.NORM", "LN"], "MODEL.RESNETS.NORM: got 'LN', expected "),
        (["MODEL.RESNETS.DEPTH", "51"], "MODEL.RESNETS.DEPTH: got 51, expected one of"),
        (["MODEL.RESNETS.DEPTH", "50"], "RES2_OUT_CHANNELS: got 64, expected 256 for a ResNet-50"),
        (
            ["MODEL.RETINANET.NUM_CLASSES", "0"],
            "NUM_CLASSES: got 0, expected a whole number from 1",
        ),
        (
            ["MODEL.ATTENTION.STAGES", "['res6']"],
            "MODEL.ATTENTION.STAGES: got ['res6'], expected a list",
        ),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "Step"],
            "SOLVER.LR_SCHEDULER_NAME: got 'Step', expected one of",
        ),
        (["SOLVER.BASELR", "0.1"], "the nearest known key is SOLVER.BASE_LR"),
    ],
)
def test_refusals_name_the_key(tiny_config, torchvision_engine, overrides, message):
    with pytest.raises(ConfigError) as error:
        tiny_config(torchvision_engine, *overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_gpu_means_cpu(tiny_config, engine, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert tiny_config(engine, "MODEL.DEVICE", "cuda").MODEL.DEVICE == "cpu"
