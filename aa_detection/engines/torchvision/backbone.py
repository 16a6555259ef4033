"""torchvision's ResNets with attention, below its feature pyramid."""

import torchvision
from fvcore.common.config import CfgNode
from torch import nn
from torchvision.models import ResNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ...config import attention_spec
from ...config.attention_keys import name_key
from ...models import augment
from .norms import norm_layer

_STAGES = {"res3": "layer2", "res4": "layer3", "res5": "layer4"}


def build_backbone(cfg: CfgNode) -> BackboneWithFPN:
    """Build the config's backbone with random weights; its maps are p3 … p7.

    Raises:
        ConfigError: attention that cannot be built; names the key.
    """
    resnets = cfg.MODEL.RESNETS
    norm = norm_layer(resnets.NORM, cfg.MODEL.DEVICE)
    # torchvision refuses wide groups for ResNets of basic blocks, where they have no meaning
    groups = {"groups": resnets.NUM_GROUPS, "width_per_group": resnets.WIDTH_PER_GROUP}
    make_resnet = getattr(torchvision.models, f"resnet{resnets.DEPTH}")
    resnet: ResNet = make_resnet(norm_layer=norm, **groups)
    if resnets.STRIDE_IN_1X1 and resnets.DEPTH >= 50:
        for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, (1, 1)
    _freeze(resnet, cfg.MODEL.BACKBONE.FREEZE_AT)
    spec = attention_spec(cfg)
    try:
        if cfg.MODEL.BACKBONE.NAME == "build_retinanet_aa_resnet_fpn_backbone":
            augment(resnet, spec)
    except ValueError as error:
        raise name_key(error) from None

    channels = [resnets.RES2_OUT_CHANNELS * factor for factor in (2, 4, 8)]
    out_channels = cfg.MODEL.FPN.OUT_CHANNELS
    top = LastLevelP6P7(channels[-1], out_channels)
    top.use_P5 = False  # torchvision guesses it from the channels, which may match by chance
    return BackboneWithFPN(
        resnet,
        {_STAGES[name]: name.replace("res", "p") for name in cfg.MODEL.FPN.IN_FEATURES},
        channels,
        out_channels,
        top,
        norm_layer(cfg.MODEL.FPN.NORM, cfg.MODEL.DEVICE),
    )


def _freeze(resnet: ResNet, freeze_at: int) -> None:
    """Freeze the stem (1) and the stages up to `freeze_at` (2 … 5), norms included."""
    stages = [
        [resnet.conv1, resnet.bn1],
        [resnet.layer1],
        [resnet.layer2],
        [resnet.layer3],
        [resnet.layer4],
    ]
    for stage in stages[:freeze_at]:
        for module in stage:
            module.requires_grad_(False)
    if freeze_at >= 1:
        resnet.bn1 = _frozen(resnet.bn1)
    for stage in stages[1:freeze_at]:
        for parent in stage[0].modules():
            for name, child in parent.named_children():
                setattr(parent, name, _frozen(child))


def _frozen(module: nn.Module) -> nn.Module:
    if not isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return module
    frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
    frozen.load_state_dict(module.state_dict())
    return frozen
