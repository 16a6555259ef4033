"""COCO's box metrics, under detectron2's names."""

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data import index_annotations

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def coco_ap(coco: COCO, detections: list[dict[str, Any]]) -> dict[str, float]:
    """Return the average precision of detections, in percent.

    Args:
        coco: the annotations.
        detections: COCO's result format, a list of ``image_id``, ``category_id``, ``bbox``
            (x, y, width, height) and ``score``; may be empty.

    Returns:
        AP, AP50, AP75, APs, APm, APl and ``AP-<class name>``; NaN where nothing is annotated.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        # loadRes rejects an empty list
        found = coco.loadRes(detections) if detections else _without_annotations(coco)
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = dict(zip(METRICS, map(_percent, evaluation.stats[:6])))

    # (IoU thresholds, recall thresholds, categories, areas, detections per image)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    for i, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, i]
        values = values[values > -1]
        name = coco.cats[category]["name"]
        metrics[f"AP-{name}"] = float(values.mean() * 100) if values.size else float("nan")
    return metrics


def _percent(value: np.floating) -> float:
    return float(value) * 100 if value > -1 else float("nan")


def _without_annotations(coco: COCO) -> COCO:
    return index_annotations({**coco.dataset, "annotations": []})
