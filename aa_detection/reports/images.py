"""Find the images on which a run did best and worst."""

from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO

from ..comparison.matching import match
from ..comparison.results import DetectionTable


@dataclass(frozen=True)
class ImageScore:
    """Counts of a run on one image, at an IoU of 0.5 and a score threshold."""

    image_id: int
    found: int  # objects matched by a detection of their class
    missed: int
    false: int  # unmatched detections

    @property
    def f1(self) -> float:
        """Return 2 found / (2 found + missed + false), or 1 if all three are zero."""
        errors = self.missed + self.false
        return 2 * self.found / (2 * self.found + errors) if self.found or errors else 1.0


def score_images(coco: COCO, results: DetectionTable, score_threshold: float) -> list[ImageScore]:
    """Return the score of every image, in order of ids; crowds are neither found nor missed."""
    kept = results.scores >= score_threshold
    results = DetectionTable(
        results.images[kept], results.classes[kept], results.boxes[kept], results.scores[kept]
    )
    ids = sorted(coco.imgs)
    found, objects, counted = np.zeros((3, len(ids)), dtype=int)
    for all_areas, *_ in match(coco, results).classes:
        # index 0 is an IoU of 0.5
        found += np.bincount(all_areas.images[all_areas.true[0]], minlength=len(ids))
        counted += np.bincount(all_areas.images[all_areas.counts[0]], minlength=len(ids))
        objects += all_areas.objects
    return [
        ImageScore(image_id, int(hit), int(wanted - hit), int(seen - hit))
        for image_id, hit, wanted, seen in zip(ids, found, objects, counted)
    ]


def best_and_worst(
    scores: list[ImageScore], count: int
) -> tuple[list[ImageScore], list[ImageScore]]:
    """Return at most `count` each, without overlap; ties go to the image with more objects."""
    count = min(count, len(scores) // 2)
    ranked = sorted(scores, key=lambda score: (-score.f1, -score.found, score.image_id))
    best = ranked[:count]
    rest = sorted(ranked[count:], key=lambda score: (score.f1, -score.missed - score.false))
    return best, rest[:count]
