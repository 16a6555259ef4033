"""Every file in configs/ trains an iteration and evaluates, shrunk, under the engine it is for."""

import pytest
import torch

from aa_detection.config import ConfigError

from .conftest import ROOT

CONFIGS = sorted(
    str(path.relative_to(ROOT / "configs"))
    for path in (ROOT / "configs").rglob("*.yaml")
    if not path.name.startswith("Base-")
)
TWO_STAGE = [name for name in CONFIGS if "rcnn" in name]
RETINANETS = [name for name in CONFIGS if name not in TWO_STAGE]

SHRINK = [
    "MODEL.WEIGHTS", "",
    "MODEL.RESNETS.DEPTH", "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.BACKBONE.FREEZE_AT", "0",
    "MODEL.FPN.OUT_CHANNELS", "64",
    "MODEL.ATTENTION.AA.MAX_IMAGE_SIZE", "96",
    "DATASETS.TRAIN", "('aa_sample_train',)",
    "DATASETS.TEST", "('aa_sample_val',)",
    "DATALOADER.NUM_WORKERS", "0",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MAX_SIZE_TRAIN", "96",
    "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TEST", "96",
    "INPUT.SCALE_JITTER.SIZE", "96",
    "TEST.DETECTIONS_PER_IMAGE", "5",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.REFERENCE_WORLD_SIZE", "0",
    "SOLVER.MAX_ITER", "1",
    "SOLVER.STEPS", "()",
    "SOLVER.WARMUP_ITERS", "0",
    "SOLVER.BASE_LR", "0.0001",
    "SOLVER.AMP.ENABLED", "False",  # detectron2 has it on CUDA alone
]  # fmt: skip
RETINANET = ["MODEL.RETINANET.NUM_CLASSES", "5", "MODEL.RETINANET.NUM_CONVS", "1",
             "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"]  # fmt: skip
RCNN = ["MODEL.ROI_HEADS.NUM_CLASSES", "5", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20",
        "MODEL.RPN.POST_NMS_TOPK_TEST", "20", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
        "INPUT.MASK_FORMAT", "polygon"]  # fmt: skip


@pytest.fixture(scope="module")
def trained_already():
    """Files by engine and config: shrunk, R-50 and R-101 are the same, and so are 1x and 3x."""
    return {}


def train_and_evaluate(engine, name, output, overrides, trained_already):
    path = str(ROOT / "configs" / name)
    original = engine.load_config(path)
    # FrozenBN is for weights that a file brings
    norm = original.MODEL.RESNETS.NORM.replace("FrozenBN", "BN")
    overrides = [*SHRINK, *overrides, "MODEL.RESNETS.NORM", norm, "OUTPUT_DIR", str(output)]
    cfg = engine.load_config(path, overrides)
    what = engine, cfg.dump().replace(str(output), "")
    if what in trained_already:
        pytest.skip(f"shrunk, {trained_already[what]} is the same")
    results = engine.run(cfg)
    trained_already[what] = name
    assert "AP" in results["bbox"]
    final = torch.load(output / "model_final.pth", weights_only=True)
    assert final["iteration"] == 0
    assert all(tensor.isfinite().all() for tensor in final["model"].values())
    assert (output / "inference/coco_instances_results.json").is_file()


@pytest.mark.parametrize("name", RETINANETS)
def test_retinanet(engine, name, tmp_path, trained_already):
    train_and_evaluate(engine, name, tmp_path, RETINANET, trained_already)


@pytest.mark.parametrize("name", TWO_STAGE)
def test_two_stage_detector(detectron2_engine, name, tmp_path, trained_already):
    train_and_evaluate(detectron2_engine, name, tmp_path, RCNN, trained_already)


@pytest.mark.parametrize("name", TWO_STAGE)
def test_two_stage_detectors_are_refused_by_name(torchvision_engine, name):
    with pytest.raises(ConfigError, match=r"MODEL\.\S+ .*torchvision engine") as error:
        torchvision_engine.load_config(str(ROOT / "configs" / name))
    assert "\n" not in str(error.value)


def test_lazy_config_builds_the_yamls_network(detectron2_engine):
    from detectron2.config import LazyConfig, instantiate

    lazy = LazyConfig.load(str(ROOT / "configs/lazy/aa_retinanet_R50.py"))
    lazy.model.backbone.bottom_up.spec.num_heads = 4
    overrides = ["MODEL.ATTENTION.AA.NUM_HEADS", "4", "MODEL.DEVICE", "cpu"]
    cfg = detectron2_engine.load_config(str(ROOT / "configs/aa_retinanet_R50.yaml"), overrides)
    ours, theirs = instantiate(lazy.model), detectron2_engine.build_model(cfg)
    shapes = [{name: t.shape for name, t in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert {"dataloader", "optimizer", "lr_multiplier", "train"} <= lazy.keys()
