"""Average precision of many resamples of the images at once, accumulated as in COCO.

An image drawn n times has weight n. COCO's interpolated precision changes only at true positives,
of which there are at most as many as objects. So the weights of all detections are summed once per
class and looked up at the true positives.
"""

import numpy as np

from .matching import IOU_THRESHOLDS, RECALL_THRESHOLDS, AreaMatches, Matches
from .progress import counted

# (name, area index, IoU threshold indices), as in COCO's summary
SUMMARIES = (
    ("AP", 0, slice(None)),
    ("AP50", 0, slice(0, 1)),
    ("AP75", 0, slice(5, 6)),
    ("APs", 1, slice(None)),
    ("APm", 2, slice(None)),
    ("APl", 3, slice(None)),
)
_BLOCK = 1 << 19  # detection weights held at a time, few enough to stay in the cache


def draw_resamples(num_images: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return bootstrap samples as (resamples, images): how often each image was drawn."""
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


def resampled_metrics(
    matches: Matches, weights: np.ndarray, what: str = "classes resampled"
) -> np.ndarray:
    """Return the metrics of :data:`SUMMARIES` and AP by class: (1 + R, 6 + classes), in percent.

    The first row is for the original images, the others for the R resamples in `weights`.

    Args:
        what: see :func:`.progress.counted`.
    """
    weights = np.concatenate([np.ones_like(weights[:1]), weights])
    return np.concatenate(summarize(average_precision(matches, weights, what)), axis=1)


def average_precision(
    matches: Matches, weights: np.ndarray, what: str = "classes resampled"
) -> np.ndarray:
    """Return COCO's average precision, in percent, by class, area range and IoU threshold.

    Args:
        weights: (R, I) integers: how often each image counts.
        what: see :func:`.progress.counted`.

    Returns:
        (R, classes, 4, T); NaN where there is no object to find.
    """
    weights = np.ascontiguousarray(weights, dtype=np.int32)
    values = [
        [_of_area(area, weights) for area in areas] for areas in counted(matches.classes, what)
    ]
    shape = (len(matches.classes), 4, len(IOU_THRESHOLDS), len(weights))
    return 100 * np.moveaxis(np.array(values).reshape(shape), -1, 0)


def summarize(precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the metrics of :data:`SUMMARIES`, (R, 6), and AP by class, (R, classes)."""
    metrics = [
        mean_of_annotated(precision[:, :, area, thresholds].reshape(len(precision), -1))
        for _, area, thresholds in SUMMARIES
    ]
    return np.stack(metrics, axis=1), precision[:, :, 0].mean(axis=2)


def mean_of_annotated(values: np.ndarray) -> np.ndarray:
    """Return row means that ignore NaN; NaN where a whole row is NaN."""
    present = ~np.isnan(values)
    total = np.where(present, values, 0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return total / present.sum(axis=1)


def precision_at_recall(area: AreaMatches, threshold: int) -> np.ndarray | None:
    """Return COCO's interpolated precision at the 101 recall thresholds; None without objects.

    Args:
        threshold: index of the IoU threshold.
    """
    objects = area.objects.sum()
    if not objects:
        return None
    true = np.flatnonzero(area.true[threshold])
    counted = area.counts[threshold].cumsum()[true]
    found = np.arange(1, len(true) + 1)
    envelope = np.maximum.accumulate((found / (counted + np.spacing(1)))[::-1])[::-1]
    at = np.searchsorted(found / objects, RECALL_THRESHOLDS, side="left")
    return np.append(envelope, 0.0)[at]


def _of_area(area: AreaMatches, weights: np.ndarray) -> np.ndarray:
    """Return (T, R) average precision of one class, as a fraction."""
    objects = weights @ area.objects
    result = np.zeros((len(IOU_THRESHOLDS), len(weights)))
    true = [np.flatnonzero(at) for at in area.true]
    left_out = [np.flatnonzero(~at) for at in area.counts]
    rows = max(1, _BLOCK // max(1, len(area.images)))
    for start in range(0, len(weights), rows):
        block = slice(start, start + rows)
        of_detection = weights[block].take(area.images, axis=1)  # (r, D)
        counted = of_detection.cumsum(axis=1, dtype=np.int32)
        for t in range(len(true)):
            if len(true[t]):
                result[t, block] = _of_threshold(
                    of_detection, counted, true[t], left_out[t], objects[block]
                )
    result[:, objects == 0] = np.nan
    return result


def _of_threshold(
    weights: np.ndarray,
    counted: np.ndarray,
    true: np.ndarray,
    left_out: np.ndarray,
    objects: np.ndarray,
) -> np.ndarray:
    """Return (r,) average precision at one IoU threshold.

    Args:
        weights: (r, D) of the detections in COCO's order.
        counted: (r, D) their cumulative sums.
        true: (P,) indices of the true positives.
        left_out: (E,) indices of those that do not count at this threshold.
        objects: (r,) weights of the objects to find.
    """
    found = weights.take(true, axis=1).cumsum(axis=1, dtype=np.int32)
    positives = counted.take(true, axis=1)
    if len(left_out):
        before = np.zeros((len(weights), len(left_out) + 1), np.int32)
        weights.take(left_out, axis=1).cumsum(axis=1, out=before[:, 1:])
        positives -= before.take(np.searchsorted(left_out, true), axis=1)
    # both as in COCO, which divides by a tiny number instead of zero
    precision = found / (positives + np.spacing(1))
    recall = found / np.maximum(objects, 1)[:, None]
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # number of recall thresholds that each true positive is the first to reach; the first true
    # positive also covers recall 0
    reached = _thresholds_reached(recall)
    reached[:, 1:] -= reached[:, :-1].copy()
    return (envelope * reached).sum(axis=1) / len(RECALL_THRESHOLDS)


def _thresholds_reached(recall: np.ndarray) -> np.ndarray:
    """Count the recall thresholds that are at most `recall`."""
    return np.searchsorted(RECALL_THRESHOLDS, recall.ravel(), side="right").reshape(recall.shape)
