"""Weights whose origin contradicts the config are refused with the values to set."""

import pytest
import torch
from fvcore.common.config import CfgNode

from aa_detection.checkpoints import Checkpoint, check_preprocessing
from aa_detection.config import ConfigError

BGR_MEAN = [103.53, 116.28, 123.675]
RGB_MEAN = BGR_MEAN[::-1]
STD = [58.395, 57.12, 57.375]
ONES = [1.0, 1.0, 1.0]


def config(image_format, mean, std, stride_in_1x1, norm="FrozenBN"):
    return CfgNode(
        {
            "INPUT": {"FORMAT": image_format},
            "MODEL": {
                "PIXEL_MEAN": list(mean),
                "PIXEL_STD": list(std),
                "RESNETS": {"STRIDE_IN_1X1": stride_in_1x1, "NORM": norm},
            },
        }
    )


def resnet(author, *, basic=False, groups=1, group_norm=False):
    weights = {"res2.0.conv2.weight": torch.ones(4, 4 // groups, 3, 3)}
    weights["res2.0.conv2.norm.weight"] = torch.ones(4)
    if not group_norm:
        weights["res2.0.conv2.norm.running_var"] = torch.ones(4)
    if not basic:
        weights["res2.0.conv3.weight"] = torch.ones(8, 4, 1, 1)
    return Checkpoint("w.pth", weights, author=author)


MSRA = ("BGR", BGR_MEAN, ONES, True)
TORCHVISION = ("RGB", RGB_MEAN, STD, False)


@pytest.mark.parametrize(
    ("checkpoint", "cfg"),
    [
        (resnet("torchvision"), TORCHVISION),
        (resnet("torchvision"), (*TORCHVISION, "SyncBN")),
        (resnet("torchvision", basic=True), ("RGB", RGB_MEAN, STD, True)),
        # normalised otherwise by whoever trained it
        (resnet("torchvision"), ("RGB", [127.5] * 3, [127.5] * 3, False)),
        (resnet("Detectron"), MSRA),
        (resnet("Detectron", group_norm=True), ("BGR", BGR_MEAN, ONES, False, "GN")),
        (resnet("Detectron", groups=2), ("BGR", BGR_MEAN, STD[::-1], False)),
        # nothing is known of these
        (resnet(""), MSRA),
        (resnet(""), TORCHVISION),
        (resnet("Detectron2 Model Zoo"), MSRA),
    ],
)
def test_what_agrees_passes(checkpoint, cfg):
    check_preprocessing(config(*cfg), checkpoint)


@pytest.mark.parametrize(
    ("checkpoint", "cfg", "keys"),
    [
        (
            resnet("torchvision"),
            MSRA,
            "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], "
            "MODEL.PIXEL_STD [58.395, 57.12, 57.375], MODEL.RESNETS.STRIDE_IN_1X1 False",
        ),
        (resnet("torchvision"), ("BGR", RGB_MEAN, STD, False), "INPUT.FORMAT RGB"),
        (
            resnet("torchvision"),
            ("RGB", BGR_MEAN, STD, False),
            "MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]",
        ),
        (
            resnet("torchvision", basic=True),
            ("RGB", RGB_MEAN, ONES, True),
            "MODEL.PIXEL_STD [58.395, 57.12, 57.375]",
        ),
        (
            resnet("torchvision"),
            ("RGB", RGB_MEAN, STD, True),
            "MODEL.RESNETS.STRIDE_IN_1X1 False",
        ),
        (
            resnet("Detectron"),
            TORCHVISION,
            "INPUT.FORMAT BGR, MODEL.PIXEL_MEAN [103.53, 116.28, 123.675], "
            "MODEL.PIXEL_STD [1.0, 1.0, 1.0], MODEL.RESNETS.STRIDE_IN_1X1 True",
        ),
        (resnet("Detectron"), (*MSRA, "BN"), "MODEL.RESNETS.NORM FrozenBN"),
        (resnet("Detectron"), (*MSRA, "SyncBN"), "MODEL.RESNETS.NORM FrozenBN"),
        (
            resnet("Detectron", groups=2),
            ("BGR", BGR_MEAN, STD[::-1], True),
            "MODEL.RESNETS.STRIDE_IN_1X1 False",
        ),
    ],
)
def test_contradictions_name_the_keys_and_their_values(checkpoint, cfg, keys):
    with pytest.raises(ConfigError) as error:
        check_preprocessing(config(*cfg), checkpoint)
    assert str(error.value) == (
        f"w.pth: {checkpoint.author}'s weights, and the config contradicts what they were trained "
        f"with: set {keys}"
    )
