"""Gains reported in the papers, keyed by this project's config names."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedGain:
    """AP gain of a network over its plain counterpart on COCO."""

    gain: float
    source: str


_AA = "Bello et al., ICCV 2019: RetinaNet, 640x640, from random weights; recalled, not read again"
PUBLISHED = {
    "aa_retinanet_R50": PublishedGain(38.2 - 36.8, _AA),
    "se_retinanet_R50": PublishedGain(36.5 - 36.8, _AA),
    "aa_retinanet_R101": PublishedGain(39.2 - 38.5, _AA),
    "se_retinanet_R101": PublishedGain(37.4 - 38.5, _AA),
    "aw_faster_rcnn_R101_FPN": PublishedGain(0.63, "arXiv 2108.08205: Faster R-CNN R-101-FPN"),
}
