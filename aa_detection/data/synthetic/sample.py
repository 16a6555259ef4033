"""The sample dataset: a few hundred images and their COCO annotations, generated from a seed."""

import numpy as np

from .drawn import Drawing, DrawnDataset
from .scene import draw_scene

_EMPTY_EVERY = 25  # one image in this many has no object


def _draw(rng: np.random.Generator, index: int) -> Drawing:
    return draw_scene(rng, empty=index % _EMPTY_EVERY == 3)


SAMPLE = DrawnDataset(
    name="sample",
    version="1",
    # With gaps and not from 0, so that mistaking a class index for a category id is noticed.
    category_ids={"circle": 1, "triangle": 2, "square": 3, "star": 5, "crescent": 7},
    draw=_draw,
)

write_sample_dataset = SAMPLE.write
