"""ResNets of both frameworks behind one call, so that a test's table can name them."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

STAGES = ("res2", "res3", "res4", "res5")


def _torchvision(depth, norm, stages):
    if isinstance(depth, int):
        depth = f"resnet{depth}"
    norm_layer = {"BN": nn.BatchNorm2d, "FrozenBN": FrozenBatchNorm2d}[norm]
    resnet = getattr(torchvision.models, depth)(norm_layer=norm_layer)
    if stages is None:
        return resnet
    layers = {f"layer{STAGES.index(stage) + 1}": stage for stage in stages}
    return IntermediateLayerGetter(resnet, layers)


def _detectron2(depth, norm, stages, freeze_at=0, stride_in_1x1=False):
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = list(stages or STAGES)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = stride_in_1x1
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


@pytest.fixture
def build():
    """``build(framework, depth, norm="BN", stages=None, **detectron2_options)``.

    With `stages` the network returns ``{stage: features}`` and ends at the last of them; without,
    torchvision's is the whole classifier and detectron2's has all four.
    """

    def build(framework, depth, norm="BN", stages=None, **options):
        torch.manual_seed(0)
        make = {"torchvision": _torchvision, "detectron2": _detectron2}[framework]
        return make(depth, norm, stages, **options)

    return build


@pytest.fixture
def randomise_norms():
    """Give every batch norm statistics and an affine map, as a trained network has them."""

    def randomise(network):
        generator = torch.Generator().manual_seed(1)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) or type(module).__name__ == "FrozenBatchNorm2d":
                for name, low, high in (
                    ("weight", 0.2, 0.8),
                    ("bias", -0.3, 0.3),
                    ("running_mean", -0.3, 0.3),
                    ("running_var", 0.5, 1.5),
                ):
                    getattr(module, name).data.uniform_(low, high, generator=generator)
        return network

    return randomise
