"""Small files of weights as each framework writes them."""

import pickle

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

SIZES = tuple((x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)) for x in (32, 64, 128, 256, 512))


def randomise(model):
    """Statistics, biases and heads as a trained network has them, not zeros and ones."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(std=0.3)
    return model


@pytest.fixture
def torchvision_resnet():
    """``torchvision_resnet(depth)``: an ImageNet classifier of torchvision's, a few classes."""

    def build(depth=18):
        torch.manual_seed(0)
        return randomise(getattr(torchvision.models, f"resnet{depth}")(num_classes=3))

    return build


@pytest.fixture
def torchvision_retinanet():
    """``torchvision_retinanet(norm, p6_of)``: torchvision's RetinaNet around a ResNet-18."""

    def build(norm=None, p6_of="res5", num_classes=91):
        torch.manual_seed(0)
        top = LastLevelP6P7(512 if p6_of == "res5" else 256, 256)
        resnet = torchvision.models.resnet18()
        backbone = _resnet_fpn_extractor(resnet, 5, returned_layers=[2, 3, 4], extra_blocks=top)
        norm_layer = None if norm is None else lambda channels: nn.GroupNorm(32, channels)
        head = RetinaNetHead(256, 9, num_classes, norm_layer=norm_layer)
        anchors = AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 5)
        model = RetinaNet(backbone, num_classes, anchor_generator=anchors, head=head)
        return randomise(model).eval()

    return build


def caffe2_names(state):
    """A torchvision ResNet's convolutions and affine norms by Detectron's names, as arrays."""
    names = {
        "conv1.weight": "conv1_w",
        "bn1.weight": "res_conv1_bn_s",
        "bn1.bias": "res_conv1_bn_b",
    }
    letters = {"1": "2a", "2": "2b", "3": "2c"}
    for name in state:
        parts = name.split(".")
        if not parts[0].startswith("layer"):
            continue
        block = f"res{int(parts[0][-1]) + 1}_{parts[1]}_branch"
        if parts[2] == "downsample":
            kind, branch = ("conv", "bn")[int(parts[3])], "1"
        else:
            kind, branch = parts[2][:-1], letters[parts[2][-1]]
        if kind == "conv":
            names[name] = f"{block}{branch}_w"
        elif parts[-1] in ("weight", "bias"):
            names[name] = f"{block}{branch}_bn_{parts[-1][0].replace('w', 's')}"
    names |= {"fc.weight": "fc1000_w", "fc.bias": "fc1000_b"}
    return {new: state[name].numpy() for name, new in names.items()}


@pytest.fixture
def msra_pickle(tmp_path, torchvision_resnet):
    """Writes a ResNet as MSRA's of detectron2's zoo; returns its path and torchvision's weights."""

    def write(depth=18, **extra):
        state = torchvision_resnet(depth).state_dict()
        path = tmp_path / f"R-{depth}.pkl"
        content = caffe2_names(state)
        content["conv1_w_momentum"] = content["conv1_w"]
        path.write_bytes(pickle.dumps({**content, **extra}, protocol=2))
        return str(path), state

    return write


@pytest.fixture
def save(tmp_path):
    """``save(content, name)``: ``torch.save`` below a folder with a space; returns the path."""

    def save(content, name="weights.pth"):
        path = tmp_path / "my weights" / name
        path.parent.mkdir(exist_ok=True)
        torch.save(content, path)
        return str(path)

    return save
