"""Match detections to objects: pycocotools' matching, run once and kept as arrays."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data import index_annotations
from .progress import counted
from .results import DetectionTable

AREAS = ("all", "small", "medium", "large")  # COCO's, in its order
IOU_THRESHOLDS = COCOeval(iouType="bbox").params.iouThrs  # T = 10: 0.5 to 0.95
RECALL_THRESHOLDS = COCOeval(iouType="bbox").params.recThrs  # 0 to 1 in steps of 0.01
MAX_DETECTIONS = 100  # per class and image


@dataclass(frozen=True)
class AreaMatches:
    """The D detections of a class that count for the objects of one area range.

    They are in COCO's order of accumulation: by descending score, then by image, then as in the
    file. Detections that count at no threshold are left out: those matched to a crowd, and
    unmatched ones of another area.
    """

    images: np.ndarray  # (D,) index of each detection's image
    counts: np.ndarray  # (T, D) bool: is a true or a false positive at this IoU threshold
    true: np.ndarray  # (T, D) bool: is a true positive
    objects: np.ndarray  # (I,) number of objects to find in each image, without ignored ones


@dataclass(frozen=True)
class Matches:
    """A run's detections matched to the annotations, by class (sorted ids) and :data:`AREAS`."""

    classes: tuple[tuple[AreaMatches, ...], ...]


def match(coco: COCO, results: DetectionTable, what: str = "classes matched") -> Matches:
    """Match a run's detections to the annotations with pycocotools.

    pycocotools gets one class at a time, and only the images with an object of that class; in the
    others there is nothing to match.

    Args:
        what: see :func:`.progress.counted`.
    """
    image_ids, category_ids = sorted(coco.imgs), sorted(coco.cats)
    evaluation = COCOeval(coco, _detections_beside_objects(coco, results), "bbox")
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    by_class = np.split(
        np.argsort(results.classes, kind="stable"),
        np.cumsum(np.bincount(results.classes, minlength=len(category_ids)))[:-1],
    )
    return Matches(
        tuple(
            _match_class(evaluation, category_id, rows, results, places)
            for category_id, rows in counted([*zip(category_ids, by_class)], what)
        )
    )


def _detections_beside_objects(coco: COCO, results: DetectionTable) -> COCO:
    """Select the detections whose class is annotated in their image; an id is the row plus one."""
    image_ids, category_ids = sorted(coco.imgs), sorted(coco.cats)
    annotated = {(a["image_id"], a["category_id"]) for a in coco.anns.values()}
    detections = []
    rows = zip(results.images.tolist(), results.classes.tolist(), results.boxes.tolist())
    scores = results.scores.tolist()
    for row, (image, category, box) in enumerate(rows):
        if (image_ids[image], category_ids[category]) in annotated:
            detections.append(
                {
                    "id": row + 1,
                    "image_id": image_ids[image],
                    "category_id": category_ids[category],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": scores[row],
                    "iscrowd": 0,
                }
            )
    return index_annotations({**coco.dataset, "annotations": detections})


def _match_class(
    evaluation: COCOeval,
    category_id: int,
    rows: np.ndarray,
    results: DetectionTable,
    places: dict[int, int],
) -> tuple[AreaMatches, ...]:
    """Match one class, with `rows` its detections in `results` and `places` image id to index."""
    parameters = evaluation.params
    parameters.catIds = [category_id]
    parameters.imgIds = sorted(set(evaluation.cocoGt.catToImgs[category_id]))
    rows = _in_coco_order(rows, results)
    images = results.images[rows]
    area = results.boxes[rows, 2] * results.boxes[rows, 3]
    position = {row + 1: at for at, row in enumerate(rows.tolist())}
    if parameters.imgIds:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        evaluated = evaluation.evalImgs
    else:
        evaluated = []

    matches = []
    for number, (smallest, largest) in enumerate(parameters.areaRng):
        # in images that pycocotools does not get, detections in the area range are false positives
        counts = np.tile((area >= smallest) & (area <= largest), (len(IOU_THRESHOLDS), 1))
        true = np.zeros_like(counts)
        objects = np.zeros(len(places), np.int32)
        of_area = len(parameters.imgIds)
        for image in evaluated[number * of_area : (number + 1) * of_area]:
            if image is None:
                continue
            at = [position[detection] for detection in image["dtIds"]]
            counts[:, at] = ~image["dtIgnore"].astype(bool)
            true[:, at] = (image["dtMatches"] > 0) & counts[:, at]
            objects[places[image["image_id"]]] = np.count_nonzero(image["gtIgnore"] == 0)
        kept = counts.any(axis=0)
        matches.append(AreaMatches(images[kept], counts[:, kept], true[:, kept], objects))
    return tuple(matches)


def _in_coco_order(rows: np.ndarray, results: DetectionTable) -> np.ndarray:
    """Return the detections COCO considers: by descending score, then image, then file order."""
    images, scores = results.images[rows], results.scores[rows]
    by_image = np.lexsort((-scores, images))  # stable
    images = images[by_image]
    rank = np.arange(len(rows)) - np.searchsorted(images, images)
    rows = rows[by_image[rank < MAX_DETECTIONS]]
    return rows[np.argsort(-results.scores[rows], kind="stable")]
