"""Registry entries: detectron2's own ResNets with attention added."""

import dataclasses

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.fpn import (
    build_resnet_fpn_backbone,
    build_retinanet_resnet_fpn_backbone,
)
from torch import nn

from ...config import attention_spec
from ...config.attention_keys import name_key
from ...models import augment


@BACKBONE_REGISTRY.register()
def build_aa_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build ``build_resnet_backbone`` with the attention of ``MODEL.ATTENTION``.

    Raises:
        ConfigError: a value of ``MODEL.ATTENTION`` that cannot be built; names the key.
    """
    resnet = build_resnet_backbone(cfg, input_shape)
    return _augmented(resnet, cfg, resnet.size_divisibility)


@BACKBONE_REGISTRY.register()
def build_aa_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build ``build_resnet_fpn_backbone`` (two-stage detectors) with attention in its ResNet.

    Raises:
        ConfigError: as :func:`build_aa_resnet_backbone`.
    """
    backbone = build_resnet_fpn_backbone(cfg, input_shape)
    _augmented(backbone.bottom_up, cfg, backbone.size_divisibility)
    return backbone


@BACKBONE_REGISTRY.register()
def build_retinanet_aa_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build ``build_retinanet_resnet_fpn_backbone`` with attention in its ResNet.

    Raises:
        ConfigError: as :func:`build_aa_resnet_backbone`.
    """
    backbone = build_retinanet_resnet_fpn_backbone(cfg, input_shape)
    _augmented(backbone.bottom_up, cfg, backbone.size_divisibility)
    return backbone


def _augmented(resnet: nn.Module, cfg: CfgNode, size_divisibility: int) -> nn.Module:
    # detectron2's 0 means that an image alone is not padded
    spec = dataclasses.replace(attention_spec(cfg), size_divisibility=max(1, size_divisibility))
    try:
        return augment(resnet, spec)
    except (ValueError, TypeError) as error:
        raise name_key(error) from None
