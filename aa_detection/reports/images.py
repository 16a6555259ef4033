"""On which images a run did best and worst."""

from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO

from ..comparison.matching import match
from ..comparison.results import DetectionTable


@dataclass(frozen=True)
class ImageScore:
    """How a run did on one image, at an IoU of 0.5 and a threshold of the score."""

    image_id: int
    found: int  # objects that a detection of their class overlaps
    missed: int
    false: int  # detections of nothing

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + false); 1 where there was nothing to find or to err on."""
        errors = self.missed + self.false
        return 2 * self.found / (2 * self.found + errors) if self.found or errors else 1.0


def score_images(coco: COCO, results: DetectionTable, score_threshold: float) -> list[ImageScore]:
    """Every image's score, in the order of the ids; crowds neither found nor missed."""
    kept = results.scores >= score_threshold
    results = DetectionTable(
        results.images[kept], results.classes[kept], results.boxes[kept], results.scores[kept]
    )
    ids = sorted(coco.imgs)
    found, objects, counted = np.zeros((3, len(ids)), dtype=int)
    for all_areas, *_ in match(coco, results).classes:
        # [0]: at an IoU of 0.5
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
    """At most `count` each, the fullest image first among equals, none in both."""
    count = min(count, len(scores) // 2)
    ranked = sorted(scores, key=lambda score: (-score.f1, -score.found, score.image_id))
    best = ranked[:count]
    rest = sorted(ranked[count:], key=lambda score: (score.f1, -score.missed - score.false))
    return best, rest[:count]
