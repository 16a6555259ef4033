"""The command line that converts weights: there and back, and what it refuses."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("convert_weights").main


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=3).state_dict()


def read(path):
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, weights_only=True)
    return content.get("model", content)


def same(weights, others):
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_resnet_there_and_back(main, resnet, tmp_path, capsys, ending):
    source, there, back = (tmp_path / name for name in ("r18.pth", f"a{ending}", f"b c{ending}"))
    torch.save(resnet, source)
    assert main([str(source), str(there)]) == 0
    assert capsys.readouterr().out == (
        f"{there}: 122 tensors, 11,187,671 numbers, by detectron2's names (the input has "
        "torchvision's)\n"
    )
    assert "res5.1.conv2.norm.running_var" in read(there)
    assert main([str(there), str(back), "--to", "torchvision"]) == 0
    assert same(read(back), resnet)
    torchvision.models.resnet18(num_classes=3).load_state_dict(read(back))
    assert len(list(tmp_path.iterdir())) == 3


def test_retinanet_there_and_back(main, tmp_path):
    """detectron2's names, as either engine writes them, to torchvision's own RetinaNet."""
    pytest.importorskip("lightning", reason="Lightning is not installed")
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.detection.retinanet import RetinaNetHead
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    from aa_detection.engines.torchvision import build_model, load_config
    from aa_detection.engines.torchvision.names import to_detectron2

    overrides = ["MODEL.FPN.OUT_CHANNELS", "256", "MODEL.FPN.NORM", "", "MODEL.RETINANET.NORM", "",
                 "MODEL.RETINANET.NUM_CONVS", "4"]  # fmt: skip
    cfg = load_config(str(ROOT / "configs/sample/retinanet_R18.yaml"), overrides)
    source, there, back = (tmp_path / name for name in ("a.pth", "b.pth", "c.safetensors"))
    weights = to_detectron2(build_model(cfg))
    torch.save({"model": weights, "iteration": 3}, source)
    assert main([str(source), str(there), "--to", "torchvision"]) == 0
    resnet = torchvision.models.resnet18()
    theirs = RetinaNet(
        _resnet_fpn_extractor(resnet, 5, [2, 3, 4], LastLevelP6P7(512, 256)),
        cfg.MODEL.RETINANET.NUM_CLASSES,
        head=RetinaNetHead(256, 9, cfg.MODEL.RETINANET.NUM_CLASSES),
    )
    theirs.load_state_dict(read(there))
    assert main([str(there), str(back), "--to", "detectron2"]) == 0
    assert same(read(back), weights)


def test_detectron2_loads_what_is_written(main, resnet, tmp_path):
    """By detectron2's own checkpointer, without this project."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    torch.save(resnet, tmp_path / "r18.pth")
    assert main([str(tmp_path / "r18.pth"), str(tmp_path / "d2.pth")]) == 0
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32]] * 5
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "d2.pth"))
    own = model.backbone.bottom_up
    assert torch.equal(own.stem.conv1.weight, resnet["conv1.weight"])
    assert torch.equal(own.res5[1].conv2.weight, resnet["layer4.1.conv2.weight"])
    assert torch.equal(own.res3[0].shortcut.norm.bias, resnet["layer2.0.downsample.1.bias"])


def msra(depth, folder):
    """The names of one block of MSRA's, bottleneck or basic, in a zoo's pickle."""
    last = {"res2_0_branch2c_w": np.ones((8, 2, 1, 1), "f4")} if depth >= 50 else {}
    arrays = {
        "conv1_w": np.ones((2, 3, 7, 7), "f4"),
        "res_conv1_bn_s": np.ones(2, "f4"),
        "res2_0_branch2a_w": np.ones((2, 2, 1, 1), "f4"),
        "res2_0_branch2b_w": np.ones((2, 2, 3, 3), "f4"),
        **last,
    }
    path = folder / "R.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=2))
    return path


def test_pickles_become_files_without_code(main, tmp_path, capsys):
    source = msra(50, tmp_path)
    output = tmp_path / "R.safetensors"
    assert main([str(source), str(output)]) == 2
    assert "R.pkl: a pickle, which could run code" in capsys.readouterr().err
    assert main([str(source), str(output), "--allow-pickle"]) == 0
    assert set(read(output)) == {
        "stem.conv1.weight",
        "stem.conv1.norm.weight",
        "stem.conv1.norm.running_mean",
        "stem.conv1.norm.running_var",
        "res2.0.conv1.weight",
        "res2.0.conv2.weight",
        "res2.0.conv3.weight",
    }
    # who trained it stays known: torchvision's ResNets compute something else
    capsys.readouterr()
    assert main([str(output), str(tmp_path / "tv.pth"), "--to", "torchvision"]) == 2
    assert "trained with the stride in the 1x1 convolution" in capsys.readouterr().err
    assert not (tmp_path / "tv.pth").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.pth", "b.pth"], "gone.pth: no such file"),
        (["a.pth", "a.pth"], "OUTPUT 'a.pth' is also INPUT 'a.pth'"),
        (["a.pth", "./link.pth"], "OUTPUT './link.pth' is also INPUT 'a.pth'"),
        (["a.pth", "b.pkl"], "b.pkl: written are .pth and .safetensors, got .pkl"),
        (["a.pth", "no such folder/b.pth"], "no such folder/b.pth: cannot be written: "),
        (
            ["mask.pth", "b.pth", "--to", "torchvision"],
            "mask.pth: torchvision's names are known for ResNets and RetinaNets; this has "
            "roi_heads.box_head.fc1.weight",
        ),
        (
            ["anchors.pth", "b.pth", "--to", "torchvision"],
            "anchors.pth: head.bbox_pred.bias has 20 numbers, which are no boxes of 3 aspect "
            "ratios of each size",
        ),
    ],
)
def test_refusals_are_one_line_and_write_nothing(
    main, resnet, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    torch.save(resnet, "a.pth")
    torch.save({"roi_heads.box_head.fc1.weight": torch.ones(2)}, "mask.pth")
    torch.save(
        {"head.cls_score.weight": torch.ones(5), "head.bbox_pred.bias": torch.ones(20)},
        "anchors.pth",
    )
    Path("link.pth").symlink_to("a.pth")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"convert_weights.py: {message}")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
