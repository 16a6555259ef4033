"""Detections, and the part of a detector that both engines share."""

import numpy as np
import pytest
import torch
from torch import nn

from aa_detection.evaluation import Detections
from aa_detection.inference import BaseDetector


def some():
    boxes = torch.tensor([[1.0, 2.0, 4.0, 8.0], [5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 1.5, 1.0]])
    return Detections.of(boxes, torch.tensor([0.9, 0.8, 0.3]), torch.tensor([1, 0, 2]))


def test_boxes_without_area_are_left_out():
    found = some()
    assert len(found) == 2
    assert found.classes.tolist() == [1, 2]
    assert len(Detections.of(torch.empty(0, 4), torch.empty(0), torch.empty(0))) == 0


def test_score_threshold_is_inclusive():
    found = some()
    assert len(found.above(float(found.scores[1]))) == 2
    assert found.above(0.5).boxes.tolist() == [[1, 2, 4, 8]]


def test_coco_format_leaves_the_boxes_alone():
    found = some()
    records = found.to_coco(7, [10, 20, 30])
    assert records[0] == {
        "image_id": 7,
        "category_id": 20,
        "bbox": [1.0, 2.0, 3.0, 6.0],
        "score": pytest.approx(0.9),
    }
    assert found.to_coco(7, [10, 20, 30]) == records


class Batches(BaseDetector):
    """Finds in every picture a box of its size; remembers the batches."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.seen = []

    def input_size(self, height, width):
        return height // 2, width // 2

    def _detect(self, images):
        self.seen.append([image.shape[:2] for image in images])
        sizes = [torch.tensor([[0.0, 0.0, w, h]]) for h, w in self.seen[-1]]
        return [Detections.of(size, torch.ones(1), torch.zeros(1)) for size in sizes]


def picture(height, width):
    return np.zeros((height, width, 3), np.uint8)


def test_pictures_of_one_input_size_share_a_batch_and_the_order_stays():
    detector = Batches()
    sizes = [(8, 6), (20, 10), (9, 7), (8, 6)]
    found = detector([picture(*size) for size in sizes])
    assert detector.seen == [[(8, 6), (9, 7), (8, 6)], [(20, 10)]]
    assert [tuple(f.boxes[0, [3, 2]]) for f in found] == sizes
    assert detector([]) == []


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), picture(0, 4)]
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"^images\[1\] must be \(H, W, 3\) uint8, got"):
        Batches()([picture(4, 4), image])
