import numpy as np
import pytest
from pycocotools.coco import COCO

from aa_detection.comparison.results import read_results
from aa_detection.reports.images import ImageScore, best_and_worst, score_images


def coco(annotations, images=(1, 2, 3)):
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.png"} for i in images],
        "categories": [{"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": [x, 10, 20, 20],
                "area": 400,
                "iscrowd": crowd,
            }
            for number, (image, category, x, crowd) in enumerate(annotations, 1)
        ],
    }
    dataset.createIndex()
    return dataset


def detection(image, category, x, score=0.9):
    return {"image_id": image, "category_id": category, "bbox": [x, 10, 20, 20], "score": score}


def test_found_missed_and_false_are_counted_by_image():
    truth = coco([(1, 4, 0, 0), (1, 9, 50, 0), (2, 4, 0, 0), (2, 4, 50, 1)])
    results = read_results(
        truth,
        [
            detection(1, 4, 1),  # found
            detection(1, 4, 2, 0.8),  # a second one of the same: false
            detection(1, 4, 50),  # of the wrong class: false, and the dog is missed
            detection(2, 4, 50),  # a crowd: neither
            detection(2, 4, 0, 0.4),  # below the threshold
            detection(3, 9, 0),  # false, in an image without objects
        ],
    )
    scores = score_images(truth, results, score_threshold=0.5)
    assert scores == [ImageScore(1, 1, 1, 2), ImageScore(2, 0, 1, 0), ImageScore(3, 0, 0, 1)]
    assert [score.f1 for score in scores] == [2 / 5, 0, 0]


def test_an_image_with_nothing_in_it_and_nothing_found_is_right():
    truth = coco([])
    scores = score_images(truth, read_results(truth, []), 0.5)
    assert [score.f1 for score in scores] == [1, 1, 1]


@pytest.mark.parametrize("total", [0, 1, 2, 5, 9])
def test_best_and_worst_share_no_image(total):
    rng = np.random.default_rng(total)
    scores = [ImageScore(i, *rng.integers(0, 4, 3).tolist()) for i in range(total)]
    best, worst = best_and_worst(scores, 4)
    assert len(best) == len(worst) == min(4, total // 2)
    assert not {score.image_id for score in best} & {score.image_id for score in worst}
    if best:
        assert min(score.f1 for score in best) >= max(score.f1 for score in worst)
        assert worst[0].f1 == min(score.f1 for score in scores)
