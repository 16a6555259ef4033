"""detectron2's RetinaNet head, including its losses."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, distributed, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from .norms import norm_layer

_IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


class Head(nn.Module):
    """detectron2's RetinaNet head and losses with the interface of torchvision's RetinaNet head.

    Attributes:
        parts: parts per batch, processed one after the other.
    """

    loss_normalizer: Tensor

    def __init__(self, cfg: CfgNode, channels: int, num_anchors: int) -> None:
        super().__init__()
        retinanet = cfg.MODEL.RETINANET
        norm = norm_layer(retinanet.NORM, cfg.MODEL.DEVICE)
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
        # moving average of the foreground anchors of a whole batch, over all processes; a buffer,
        # so that it is resumed
        self.register_buffer("loss_normalizer", torch.tensor(100.0))
        self.parts = 1
        self._foreground: int | Tensor = 0  # anchors of the batch's parts so far

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Return ``cls_logits`` (N, anchors, classes) and ``bbox_regression`` (N, anchors, 4)."""
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
        """Return the losses' sums over a moving average of the number of foreground anchors.

        With several processes, each has its share of the batch, and the mean of their losses is the
        batch's: training does not depend on the number of processes. (detectron2 averages in every
        process separately, which gives the same after the average's first few dozen iterations.)

        With several :attr:`parts`, the mean of their losses is the batch's up to a factor, since
        the average is updated with the whole batch: see :meth:`close_batch`.
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

        self._foreground += foreground.sum()
        if self.parts == 1:
            self._move_normalizer()
        shares = self.parts * (distributed.get_world_size() if distributed.is_initialized() else 1)
        return {
            "loss_cls": shares * loss_cls / self.loss_normalizer,
            "loss_box_reg": shares * loss_box_reg / self.loss_normalizer,
        }

    def close_batch(self) -> Tensor:
        """Update the average with the parts since the last call.

        Returns:
            The factor for the parts' losses and gradients, which were divided by the previous
            average.
        """
        before = self.loss_normalizer.clone()
        self._move_normalizer()
        return before / self.loss_normalizer

    def _move_normalizer(self) -> None:
        count = torch.as_tensor(self._foreground)
        self._foreground = 0
        if distributed.is_initialized():
            distributed.all_reduce(count)
        self.loss_normalizer.mul_(0.9).add_(0.1 * count.clamp(min=1))


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
    """Reshape ``(N, A * values, H, W)`` to ``(N, H * W * A, values)``, A anchors per pixel."""
    return x.unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3)
