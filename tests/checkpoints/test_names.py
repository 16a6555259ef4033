"""Names of the frameworks into each other, and what each tensor means there."""

import pytest
import torch
import torchvision

from aa_detection.checkpoints.names import (
    NameClash,
    from_caffe2,
    from_torchvision,
    to_torchvision,
)

from .conftest import caffe2_names


def equal(weights, others):
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_resnet_there_and_back(torchvision_resnet, depth):
    weights = torchvision_resnet(depth).state_dict()
    named = from_torchvision(weights)
    assert {name.split(".")[0] for name in named} == {
        "stem",
        "res2",
        "res3",
        "res4",
        "res5",
        "linear",
    }
    assert equal(to_torchvision(named), weights)


@pytest.mark.parametrize("norm", [None, "GN"])
def test_torchvision_retinanet_there_and_back(torchvision_retinanet, norm):
    weights = torchvision_retinanet(norm).state_dict()
    assert equal(to_torchvision(from_torchvision(weights)), weights)


def test_augmented_resnet_there_and_back():
    from aa_detection import AttentionSpec, augment

    resnet = torchvision.models.resnet18()
    weights = augment(resnet, AttentionSpec(gate="se", max_image_size=64)).state_dict()
    named = from_torchvision(weights)
    assert "res5.1.conv1.qkv.weight" in named
    assert any(name.startswith("res5.1.gate.") for name in named)
    assert "res5.1.conv1.norm.running_mean" in named
    assert equal(to_torchvision(named), weights)


def test_towers_of_old_torchvision_checkpoints(torchvision_retinanet):
    """Before 0.13 a tower's and the pyramid's convolutions were not in blocks of their own."""
    new = torchvision_retinanet().state_dict()
    old = {}
    for name, tensor in new.items():
        parts = name.split(".")
        if ".conv." in name and name.startswith("head."):
            parts[3:5] = [str(2 * int(parts[3]))]
        elif "_blocks." in name and not name.startswith("backbone.fpn.extra"):
            del parts[4]
        old[".".join(parts)] = tensor
    assert "head.classification_head.conv.6.weight" in old
    assert "backbone.fpn.inner_blocks.0.weight" in old
    assert equal(from_torchvision(old), from_torchvision(new))


def test_names_are_detectron2s():
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    theirs = build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict()
    named = from_torchvision(torchvision.models.resnet50().state_dict())
    shapes = {name: t.shape for name, t in named.items() if not name.startswith("linear.")}
    assert shapes == {name: t.shape for name, t in theirs.items()}


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_caffe2_names_become_what_detectron2_makes_of_them(torchvision_resnet, norm):
    c2 = pytest.importorskip(
        "detectron2.checkpoint.c2_model_loading", reason="detectron2 is not installed"
    )
    state = torchvision_resnet(50).state_dict()
    weights = {
        name.replace("_bn_", f"_{norm}_"): torch.from_numpy(array)
        for name, array in caffe2_names(state).items()
    }
    if norm == "gn":  # Facebook's group norm ResNets name their stem so
        weights = {name.replace("res_conv1_gn", "conv1_gn"): t for name, t in weights.items()}
    weights |= {
        "fpn_inner_res5_2_sum_w": torch.ones(2),
        "fpn_inner_res4_5_sum_lateral_w": torch.ones(3),
        "fpn_res3_3_sum_b": torch.ones(4),
    }
    expected, _ = c2.convert_c2_detectron_names(dict(weights))
    named = from_caffe2(weights)
    # the classifier's name alone is another; the statistics are added
    expected = {name.replace("fc1000", "linear"): tensor for name, tensor in expected.items()}
    added = {name for name in named if "running" in name}
    assert named.keys() - added == expected.keys()
    assert all(torch.equal(named[name], tensor) for name, tensor in expected.items())
    assert len(added) == (2 * 53 if norm == "bn" else 0)
    assert all((named[name] == ("var" in name)).all() for name in added)


def test_anchors_keep_their_meaning(torchvision_retinanet):
    """Each row of the head goes where detectron2 has the anchor of its size and aspect ratio."""
    weights = torchvision_retinanet(num_classes=4).state_dict()
    scores = torch.arange(9.0).repeat_interleave(4) * 10 + torch.arange(4.0).repeat(9)
    weights["head.classification_head.cls_logits.bias"] = scores  # 10 · anchor + class
    moved = from_torchvision(weights)["head.cls_score.bias"].view(3, 3, 4)
    for size in range(3):
        for ratio in range(3):
            anchor = 3 * ratio + size  # torchvision's
            assert moved[size, ratio].tolist() == [10 * anchor + k for k in range(4)]


def test_clashes_and_heads_that_are_none(torchvision_resnet, torchvision_retinanet):
    weights = torchvision_resnet().state_dict()
    weights["stem.conv1.weight"] = weights["conv1.weight"]
    with pytest.raises(NameClash, match="conv1.weight and stem.conv1.weight are both stem.conv1.w"):
        from_torchvision(weights)
    weights = torchvision_retinanet().state_dict()
    weights["head.regression_head.bbox_reg.bias"] = torch.zeros(20)
    with pytest.raises(ValueError, match="bbox_reg.bias has 20 numbers, which are no boxes of 3"):
        from_torchvision(weights)
