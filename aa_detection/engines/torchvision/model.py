"""Build torchvision's RetinaNet from detectron2's config, so that weights fit both.

Where the two interpret a weight differently (anchors, losses, strides, head), this follows
detectron2's RetinaNet; everything else is torchvision's.
"""

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import BoxCoder, Matcher, _topk_min
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms, clip_boxes_to_image

from ...config import by_level
from .backbone import build_backbone
from .head import Head

_STRIDES = (8, 16, 32, 64, 128)


def build_model(cfg: CfgNode) -> RetinaNet:
    """Build the config's RetinaNet with random weights.

    Its input is a list of ``(3, H, W)`` images with values 0 … 255 in ``INPUT.FORMAT`` order,
    already resized; its labels are 0-based.

    Raises:
        ConfigError: attention that cannot be built; names the key.
    """
    retinanet = cfg.MODEL.RETINANET
    backbone = build_backbone(cfg)
    generator = cfg.MODEL.ANCHOR_GENERATOR
    anchors = FixedStrideAnchors(
        by_level(generator.SIZES, len(_STRIDES)),
        by_level(generator.ASPECT_RATIOS, len(_STRIDES)),
        generator.OFFSET,
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
    """torchvision's RetinaNet with non-maximum suppression before clipping to the image.

    This is detectron2's order. torchvision clips first, which changes the overlaps of boxes that
    extend beyond the image, so it suppresses different boxes at the border.
    """

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Return each image's boxes, scores and labels.

        Inputs are lists by level; `anchors` has one such list per image.
        """
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
        """Select a level's best; logits ``(anchors, classes)``, the others ``(anchors, 4)``."""
        scores = logits.sigmoid().flatten()
        index = (scores > self.score_thresh).nonzero().squeeze(1)
        best, order = scores[index].topk(_topk_min(index, self.topk_candidates, 0))
        index = index[order]
        anchor = index.div(logits.shape[1], rounding_mode="floor")
        boxes = self.box_coder.decode_single(deltas[anchor], anchors[anchor])
        return boxes, best, index % logits.shape[1]


class Normalize(GeneralizedRCNNTransform):
    """Normalise and pad to a multiple of 32; the dataset does the resizing."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__(min_size=0, max_size=0, image_mean=mean, image_std=std)

    def normalize(self, image: Tensor) -> Tensor:
        return super().normalize(image.to(torch.get_default_dtype()))

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


class FixedStrideAnchors(AnchorGenerator):
    """detectron2's anchors: not rounded, ratios innermost, strides of the pyramid's levels.

    torchvision instead divides the padded image size by the map size, which moves the anchors of P6
    and P7 if their strides do not divide the image size.
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
