"""The plug-in in somebody else's detectron2 project."""

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.modeling import build_backbone, build_model  # noqa: E402
from detectron2.structures import BitMasks, Boxes, ImageList, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

from aa_detection import AAConv2d, AWConv2d, add_aa_config  # noqa: E402
from aa_detection.config import ConfigError  # noqa: E402
from aa_detection.engines.detectron2 import AACheckpointer  # noqa: E402


def project_config(backbone="build_retinanet_aa_resnet_fpn_backbone", conv="aa"):
    cfg = get_cfg()
    add_aa_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.ATTENTION.CONV = conv
    if "retinanet" in backbone:
        cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
        stages = ["res3", "res4", "res5"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [
            [x, x * 1.26, x * 1.59] for x in (32, 64, 128, 256, 512)
        ]
    else:
        stages = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 64
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
        cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
        cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
        cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
        cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.MODEL.RESNETS.OUT_FEATURES = stages
    cfg.MODEL.FPN.IN_FEATURES = stages
    return cfg


def small(cfg):
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return cfg


def batch(masks=False):
    inputs = []
    for height, width in ((96, 128), (120, 100)):
        boxes = torch.tensor([[10.0, 10.0, 40.0, 44.0], [20.0, 30.0, 90.0, 88.0]])
        instances = Instances(
            (height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([3, 1])
        )
        if masks:
            instances.gt_masks = BitMasks(torch.ones(2, height, width, dtype=torch.bool))
        inputs.append({"image": torch.rand(3, height, width) * 255, "instances": instances})
    return inputs


@pytest.mark.parametrize(
    ("backbone", "mask"),
    [
        ("build_retinanet_aa_resnet_fpn_backbone", False),
        ("build_aa_resnet_fpn_backbone", False),
        ("build_aa_resnet_fpn_backbone", True),
    ],
    ids=["RetinaNet", "Faster R-CNN", "Mask R-CNN"],
)
def test_a_project_trains_a_step_and_every_parameter_learns(backbone, mask):
    torch.manual_seed(0)
    cfg = small(project_config(backbone))
    cfg.MODEL.MASK_ON = mask
    model = build_model(cfg).train()
    with EventStorage():
        sum(model(batch(mask)).values()).backward()
    assert sum(isinstance(m, AAConv2d) for m in model.modules()) == 6
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # a head's last layers may see no sample of some class in one step; a backbone sees all
        if name.startswith("backbone.bottom_up"):
            assert parameter.grad.any(), name


@pytest.mark.parametrize("gate", ["", "se", "cbam"])
def test_a_two_stage_detector_with_aw_and_a_gate_trains(gate):
    torch.manual_seed(0)
    cfg = small(project_config("build_aa_resnet_fpn_backbone", "aw"))
    cfg.MODEL.ATTENTION.GATE = gate
    model = build_model(cfg).train()
    with EventStorage():
        sum(model(batch()).values()).backward()
    assert sum(isinstance(m, AWConv2d) for m in model.modules()) == 6
    for name, parameter in model.backbone.bottom_up.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_evaluation_of_a_project():
    model = build_model(small(project_config())).eval()
    with torch.no_grad():
        outputs = model([{"image": torch.rand(3, 70, 97) * 255, "height": 140, "width": 194}])
    assert outputs[0]["instances"].image_size == (140, 194)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("build_retinanet_aa_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"),
        ("build_aa_resnet_fpn_backbone", "build_resnet_fpn_backbone"),
    ],
)
def test_without_attention_the_entries_build_detectron2s_own(ours, theirs):
    cfg = project_config(ours, "")
    models = [build_model(cfg)]
    cfg.MODEL.BACKBONE.NAME = theirs
    models.append(build_model(cfg))
    shapes = [{name: t.shape for name, t in m.state_dict().items()} for m in models]
    assert shapes[0] == shapes[1]
    if "retinanet" in ours:
        assert sum(p.numel() for p in models[0].parameters()) == 37_915_572


def test_parameters_of_the_retinanets():
    counts = {}
    for conv in ("", "aa"):
        cfg = project_config(conv=conv)
        cfg.MODEL.ATTENTION.AA.MAX_IMAGE_SIZE = 640
        cfg.MODEL.RESNETS.NORM = "BN"
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[x, x * 2, x * 3] for x in (32, 64, 128, 256, 512)]
        counts[conv] = sum(p.numel() for p in build_model(cfg).parameters())
    # the paper: 33.4 M to 33.1 M at 640x640; the rule for the depths makes it 0.37 M
    assert counts["aa"] - counts[""] == pytest.approx(-0.37e6, abs=0.01e6)


@pytest.mark.parametrize("name", ["build_aa_resnet_backbone", "build_aa_resnet_fpn_backbone"])
def test_a_config_without_the_keys_says_what_to_call(name):
    cfg = project_config("build_aa_resnet_fpn_backbone")
    cfg.MODEL.BACKBONE.NAME = name
    del cfg.MODEL["ATTENTION"]
    with pytest.raises(ConfigError, match=r"call aa_detection.add_aa_config\(cfg\)"):
        build_model(cfg)


def test_adding_the_keys_twice_changes_nothing():
    cfg = project_config()
    cfg.MODEL.ATTENTION.AA.NUM_HEADS = 4
    add_aa_config(cfg)
    assert cfg.MODEL.ATTENTION.AA.NUM_HEADS == 4


def test_a_stage_the_backbone_does_not_build_names_the_key():
    cfg = project_config("build_aa_resnet_backbone")
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    with pytest.raises(ConfigError, match="MODEL.ATTENTION.STAGES: this ResNet has no res5"):
        build_model(cfg)


def test_without_a_pyramid_an_image_alone_is_not_padded():
    """Nor does it see any padding in a batch, whose sides are those of the largest image."""
    torch.manual_seed(0)
    cfg = project_config("build_aa_resnet_backbone")
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    backbone = build_backbone(cfg).eval()
    images = [torch.randn(3, *size) for size in ((70, 90), (131, 100))]
    batch = ImageList.from_tensors(images, backbone.size_divisibility).tensor
    assert batch.shape == (2, 3, 131, 100)
    with torch.no_grad():
        alone = backbone(images[0][None])["res5"][0]
        together = backbone(batch)["res5"][0, :, : alone.shape[1], : alone.shape[2]]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_an_image_does_not_see_its_neighbours_in_the_batch():
    torch.manual_seed(0)
    cfg = small(project_config())
    model = build_model(cfg).eval()
    small_image, large_image = torch.rand(3, 96, 128) * 255, torch.rand(3, 192, 256) * 255
    with torch.no_grad():
        alone = model.backbone.bottom_up(model.preprocess_image([{"image": small_image}]).tensor)
        padded = model.preprocess_image([{"image": small_image}, {"image": large_image}]).tensor
        together = model.backbone.bottom_up(padded)
        # the pyramid's own convolutions see the padding next to the border, in any network
        fpn_alone = model.backbone(model.preprocess_image([{"image": small_image}]).tensor)["p3"]
        fpn_together = model.backbone(padded)["p3"]
    for name, feature in alone.items():
        height, width = feature.shape[-2:]
        error = (together[name][:1, :, :height, :width] - feature).abs().max()
        assert error < 1e-4 * feature.abs().max(), name
    error = (fpn_together[:1, :, :8, :12] - fpn_alone[:, :, :8, :12]).abs().max()
    assert error < 1e-4 * fpn_alone.abs().max()


def test_a_plain_checkpoint_loads_into_an_augmented_network(tmp_path):
    torch.manual_seed(0)
    plain = build_model(small(project_config(conv="")))
    DetectionCheckpointer(plain, str(tmp_path)).save("plain")
    augmented = build_model(small(project_config()))
    AACheckpointer(augmented).load(str(tmp_path / "plain.pth"))
    conv = augmented.backbone.bottom_up.res4[0].conv1
    source = plain.backbone.bottom_up.res4[0].conv1
    kept = len(conv.weight)
    assert kept < len(source.weight)
    assert torch.equal(conv.weight, source.weight[:kept])
    assert torch.equal(augmented.head.cls_score.weight, plain.head.cls_score.weight)


def test_a_plain_checkpoint_loads_whole_into_aw_and_gates(tmp_path):
    torch.manual_seed(0)
    plain = build_model(small(project_config(conv="")))
    DetectionCheckpointer(plain, str(tmp_path)).save("plain")
    cfg = small(project_config(conv="aw"))
    cfg.MODEL.ATTENTION.GATE = "se"
    model = build_model(cfg)
    AACheckpointer(model).load(str(tmp_path / "plain.pth"))
    state = model.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_a_caffe2_pickle_loads_into_an_augmented_network(tmp_path):
    """detectron2's ImageNet weights (MSRA) carry Caffe2's names."""
    import pickle

    weights = {
        "res4_0_branch2a_w": torch.randn(256, 128, 3, 3).numpy(),
        "res4_0_branch2a_bn_s": torch.rand(256).numpy(),
        "res4_0_branch2a_bn_b": torch.rand(256).numpy(),
        "conv1_w": torch.randn(64, 3, 7, 7).numpy(),
    }
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(weights))
    model = build_model(small(project_config()))
    with pytest.raises(ConfigError, match="R-18.pkl: a pickle, .*--allow-pickle"):
        AACheckpointer(model).load(str(tmp_path / "R-18.pkl"))
    checkpointer = AACheckpointer(model, allow_pickle=True)
    with pytest.raises(ConfigError, match="only 2.5% of the backbone's parameters load"):
        checkpointer.load(str(tmp_path / "R-18.pkl"))
    checkpointer.allow_partial = True
    checkpointer.load(str(tmp_path / "R-18.pkl"))
    conv = model.backbone.bottom_up.res4[0].conv1
    kept = len(conv.weight)
    torch.testing.assert_close(conv.weight, torch.tensor(weights["res4_0_branch2a_w"][:kept]))
    bias = torch.tensor(weights["res4_0_branch2a_bn_b"][:kept])
    torch.testing.assert_close(conv.norm.bias[:kept], bias)
    stem = model.backbone.bottom_up.stem.conv1
    torch.testing.assert_close(stem.weight, torch.tensor(weights["conv1_w"]))
