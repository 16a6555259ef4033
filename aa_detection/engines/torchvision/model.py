"""torchvision's RetinaNet built from detectron2's config, so that weights fit both.

Where the two differ in what a weight means (anchors, losses, strides, head), this follows
detectron2's RetinaNet; everything else is torchvision's.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from fvcore.common.config import CfgNode
from torch import Tensor, distributed, nn
from torchvision.models import ResNet
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import BoxCoder, Matcher, _topk_min
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import (
    FrozenBatchNorm2d,
    batched_nms,
    clip_boxes_to_image,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ...config import attention_spec
from ...config.attention_keys import name_key
from ...models import augment

_STAGES = {"res3": "layer2", "res4": "layer3", "res5": "layer4"}
_STRIDES = (8, 16, 32, 64, 128)
_IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


def build_model(cfg: CfgNode) -> RetinaNet:
    """The RetinaNet a config describes, with random weights.

    Its input is a list of ``(3, H, W)`` images with values 0 … 255 in ``INPUT.FORMAT`` order,
    already resized; its labels are 0-based.

    Raises:
        ConfigError: attention that cannot be built; names the key.
    """
    retinanet = cfg.MODEL.RETINANET
    backbone = _build_backbone(cfg)
    sizes, ratios = cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
    anchors = FixedStrideAnchors(
        sizes * len(_STRIDES) if len(sizes) == 1 else sizes,
        ratios * len(_STRIDES) if len(ratios) == 1 else ratios,
        cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
    )
    model = EmbeddedRetinaNet(
        backbone,
        retinanet.NUM_CLASSES,
        head=Head(cfg, backbone.out_channels, anchors.num_anchors_per_location()[0]),
        anchor_generator=anchors,
        proposal_matcher=Matcher(
            retinanet.IOU_THRESHOLDS[1],
            retinanet.IOU_THRESHOLDS[0],
            allow_low_quality_matches=True,
        ),
        score_thresh=retinanet.SCORE_THRESH_TEST,
        nms_thresh=retinanet.NMS_THRESH_TEST,
        detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        topk_candidates=retinanet.TOPK_CANDIDATES_TEST,
    )
    model.box_coder = BoxCoder(tuple(retinanet.BBOX_REG_WEIGHTS))
    model.transform = Normalize(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    return model


class EmbeddedRetinaNet(RetinaNet):
    """torchvision's RetinaNet, its detections suppressed before they are clipped to the image.

    That is detectron2's order. torchvision clips first, and what sticks out of the image then
    overlaps otherwise: other boxes are suppressed at its border.
    """

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image; outputs are by level, anchors by image too."""
        detections = []
        for i, image_shape in enumerate(image_shapes):
            levels = [
                self._candidates(logits[i], deltas[i], level)
                for logits, deltas, level in zip(
                    head_outputs["cls_logits"], head_outputs["bbox_regression"], anchors[i]
                )
            ]
            boxes, scores, labels = map(torch.cat, zip(*levels))
            keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
            detections.append(
                {
                    "boxes": clip_boxes_to_image(boxes[keep], image_shape),
                    "scores": scores[keep],
                    "labels": labels[keep],
                }
            )
        return detections

    def _candidates(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best of a level: from ``(anchors, classes)`` and twice ``(anchors, 4)``."""
        scores = logits.sigmoid().flatten()
        index = (scores > self.score_thresh).nonzero().squeeze(1)
        best, order = scores[index].topk(_topk_min(index, self.topk_candidates, 0))
        index = index[order]
        anchor = index.div(logits.shape[1], rounding_mode="floor")
        boxes = self.box_coder.decode_single(deltas[anchor], anchors[anchor])
        return boxes, best, index % logits.shape[1]


class Normalize(GeneralizedRCNNTransform):
    """Normalises and pads to a multiple of 32; resizing is the dataset's."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__(min_size=0, max_size=0, image_mean=mean, image_std=std)

    def normalize(self, image: Tensor) -> Tensor:
        return super().normalize(image.float())

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


class FixedStrideAnchors(AnchorGenerator):
    """detectron2's anchors: not rounded, ratios innermost, strides of the pyramid's levels.

    torchvision divides the padded image by the map instead, which moves the anchors of P6 and P7
    where their strides do not divide the image.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        offset: float,
    ) -> None:
        super().__init__(tuple(map(tuple, sizes)), tuple(map(tuple, aspect_ratios)))
        self.offset = offset

    def generate_anchors(self, scales: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
        scale = torch.tensor(scales, dtype=torch.float32)[:, None]
        ratio = torch.tensor(aspect_ratios, dtype=torch.float32)[None, :]
        width = (scale / ratio.sqrt()).flatten()
        height = (scale * ratio.sqrt()).flatten()
        return torch.stack([-width, -height, width, height], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        levels = self.grid_anchors(
            [feature_map.shape[-2:] for feature_map in feature_maps],
            [[stride, stride] for stride in _STRIDES],
        )
        anchors = torch.cat(
            [level + self.offset * stride for level, stride in zip(levels, _STRIDES)]
        )
        return [anchors] * len(image_list.image_sizes)


class Head(nn.Module):
    """detectron2's RetinaNet head and losses, called as torchvision's RetinaNet calls its own."""

    loss_normalizer: Tensor

    def __init__(self, cfg: CfgNode, channels: int, num_anchors: int) -> None:
        super().__init__()
        retinanet = cfg.MODEL.RETINANET
        norm = _norm(retinanet.NORM, cfg.MODEL.DEVICE)
        self.num_classes = retinanet.NUM_CLASSES
        self.cls_subnet = _tower(channels, retinanet.NUM_CONVS, norm)
        self.bbox_subnet = _tower(channels, retinanet.NUM_CONVS, norm)
        self.cls_score = _conv(channels, num_anchors * self.num_classes)
        self.bbox_pred = _conv(channels, num_anchors * 4)
        prior = retinanet.PRIOR_PROB
        nn.init.constant_(self.cls_score.get_parameter("bias"), -math.log((1 - prior) / prior))
        self.box_coder = BoxCoder(tuple(retinanet.BBOX_REG_WEIGHTS))
        self.alpha = retinanet.FOCAL_LOSS_ALPHA
        self.gamma = retinanet.FOCAL_LOSS_GAMMA
        self.beta = retinanet.SMOOTH_L1_LOSS_BETA
        self.iou_loss = _IOU_LOSSES.get(retinanet.BBOX_REG_LOSS_TYPE)
        # moving average of the foreground anchors of a whole batch, all processes' shares of it; a
        # buffer, so that it is resumed
        self.register_buffer("loss_normalizer", torch.tensor(100.0))

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """``cls_logits`` (N, anchors, classes) and ``bbox_regression`` (N, anchors, 4)."""
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        deltas = [self.bbox_pred(self.bbox_subnet(feature)) for feature in features]
        return {
            "cls_logits": torch.cat([_per_anchor(x, self.num_classes) for x in logits], dim=1),
            "bbox_regression": torch.cat([_per_anchor(x, 4) for x in deltas], dim=1),
        }

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Sums over the batch's anchors, divided by a moving average of its foreground anchors.

        With several processes each has its share of the batch, and the mean of their losses is the
        batch's: training does not depend on the number of processes. (detectron2 averages in every
        process by itself, which comes to the same after the average's first dozens of iterations.)
        """
        logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
        matched = torch.stack(matched_idxs)  # (N, A)
        foreground, considered = matched >= 0, matched != Matcher.BETWEEN_THRESHOLDS

        classes = torch.zeros_like(logits)  # (N, A, num_classes)
        matched_boxes = []
        for i, target in enumerate(targets):
            gt = matched[i, foreground[i]]
            classes[i, foreground[i], target["labels"][gt]] = 1
            matched_boxes.append(target["boxes"][gt])
        loss_cls = sigmoid_focal_loss(
            logits[considered], classes[considered], self.alpha, self.gamma, reduction="sum"
        )

        boxes = torch.cat(matched_boxes)
        foreground_anchors = torch.stack(anchors)[foreground]
        if self.iou_loss is None:
            loss_box_reg = F.smooth_l1_loss(
                deltas[foreground],
                self.box_coder.encode_single(boxes, foreground_anchors),
                reduction="sum",
                beta=self.beta,
            )
        else:
            predicted = self.box_coder.decode_single(deltas[foreground], foreground_anchors)
            loss_box_reg = self.iou_loss(predicted, boxes, reduction="sum")

        processes = 1
        if self.training:
            count = foreground.sum()
            if distributed.is_initialized():
                processes = distributed.get_world_size()
                distributed.all_reduce(count)
            self.loss_normalizer.mul_(0.9).add_(0.1 * count.clamp(min=1))
        return {
            "loss_cls": processes * loss_cls / self.loss_normalizer,
            "loss_box_reg": processes * loss_box_reg / self.loss_normalizer,
        }


def _build_backbone(cfg: CfgNode) -> BackboneWithFPN:
    resnets = cfg.MODEL.RESNETS
    norm = _norm(resnets.NORM, cfg.MODEL.DEVICE)
    # a wide group means nothing to a basic block, whose ResNets torchvision refuses them for
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
    top.use_P5 = False  # torchvision guesses it from the channels, which may agree by chance
    return BackboneWithFPN(
        resnet,
        {_STAGES[name]: name.replace("res", "p") for name in cfg.MODEL.FPN.IN_FEATURES},
        channels,
        out_channels,
        top,
        _norm(cfg.MODEL.FPN.NORM, cfg.MODEL.DEVICE),
    )


def _norm(name: str, device: str) -> Callable[[int], nn.Module] | None:
    return {
        "": None,
        "FrozenBN": FrozenBatchNorm2d,
        "BN": nn.BatchNorm2d,
        # made so, not converted later: conversion would drop the hooks of attention; and there is
        # no such norm for the CPU
        "SyncBN": nn.SyncBatchNorm if device.startswith("cuda") else nn.BatchNorm2d,
        "GN": partial(nn.GroupNorm, 32),
    }[name]


def _tower(channels: int, depth: int, norm: Callable[[int], nn.Module] | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = _conv(channels, channels)
        layers += [conv, nn.ReLU()] if norm is None else [conv, norm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.get_parameter("bias"))
    return conv


def _per_anchor(x: Tensor, values: int) -> Tensor:
    """``(N, anchors of a pixel * values, H, W)`` to ``(N, H * W * anchors of a pixel, values)``."""
    return x.unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _freeze(resnet: ResNet, freeze_at: int) -> None:
    """Stop the stem (1) and the stages up to `freeze_at` (2 … 5) from training, norms included."""
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
