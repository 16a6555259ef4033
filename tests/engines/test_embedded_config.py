"""What the embedded engine honours, and that it refuses the rest by name."""

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import ConfigError
from aa_detection.config.loading import leaf_keys
from aa_detection.engines.torchvision import config as embedded

DIFFERENT_DEFAULTS = {
    # a RetinaNet is all this engine has
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
    for name in set(leaf_keys(CfgNode(embedded._DEFAULTS))) - DIFFERENT_DEFAULTS:
        assert value(CfgNode(embedded._DEFAULTS), name) == value(theirs, name), name


def test_every_key_of_detectron2_is_honoured_or_refused():
    detectron2_config = pytest.importorskip(
        "detectron2.config", reason="detectron2 is not installed"
    )
    honoured = set(leaf_keys(CfgNode(embedded._DEFAULTS)))
    for name in leaf_keys(detectron2_config.get_cfg()):
        assert (name in honoured) != name.startswith(embedded._DETECTRON2_ONLY), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "MODEL.ROI_HEADS.NUM_CLASSES needs detectron2"),
        (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED needs detectron2"),
        (["INPUT.CROP.ENABLED", "True"], "INPUT.CROP.ENABLED needs detectron2"),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "honours 'RetinaNet' only"),
        (["MODEL.RESNETS.NORM", "LN"], "MODEL.RESNETS.NORM 'LN'"),
        (["MODEL.RESNETS.DEPTH", "51"], "MODEL.RESNETS.DEPTH 51"),
        (["MODEL.RESNETS.DEPTH", "50"], "RES2_OUT_CHANNELS must be 256 for a ResNet-50"),
        (["MODEL.RETINANET.NUM_CLASSES", "0"], "NUM_CLASSES must be at least 1"),
        (["MODEL.ATTENTION.STAGES", "['res6']"], "MODEL.ATTENTION.STAGES must be among res2"),
        (["SOLVER.LR_SCHEDULER_NAME", "Step"], "SOLVER.LR_SCHEDULER_NAME 'Step'"),
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
