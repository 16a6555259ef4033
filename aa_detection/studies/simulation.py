"""Simulated annotations and detections, for testing and timing the comparison.

Three things decide what a detector finds, object by object: how hard the object is (the same for
every detector), how this training run sees it (its seed), and how good the detector is.
"""

from typing import Any

import numpy as np

_SIDE = 640  # image side in pixels
_CROWDS = 0.01  # fraction of the annotations


def simulate_annotations(num_images: int, num_classes: int, seed: int) -> dict[str, Any]:
    """Return COCO annotations with about seven objects per image, like COCO's val2017.

    Sizes are log-uniform over COCO's three ranges, classes have unequal frequency, some images are
    empty, and one annotation in a hundred is a crowd. Every annotation has a ``difficulty``,
    standard normal with a component shared by the objects of an image.
    """
    rng = np.random.default_rng((0, seed))
    frequency = 1 / np.arange(1, num_classes + 1)  # Zipf's
    frequency /= frequency.sum()
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        count = rng.negative_binomial(1.5, 1.5 / (1.5 + 7.3))  # mean 7.3; val2017's 1 % are empty
        scene = rng.normal()
        sides = np.exp(rng.uniform(np.log(12), np.log(320), size=(count, 2)).mean(1, keepdims=True))
        sides = sides * np.exp(rng.normal(0, 0.2, size=(count, 2)))
        corners = rng.uniform(0, _SIDE - np.minimum(sides, _SIDE - 1))
        classes = 1 + rng.choice(num_classes, size=count, p=frequency)
        difficulty = 0.5 * scene + 0.75**0.5 * rng.normal(size=count)
        for corner, side, category_id, hard in zip(corners, sides, classes, difficulty):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(category_id),
                    "bbox": [*corner.round(2).tolist(), *side.round(2).tolist()],
                    "area": float(0.7 * side.prod()),  # area of a mask
                    "iscrowd": int(rng.random() < _CROWDS),
                    "difficulty": float(hard),
                }
            )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": _SIDE, "height": _SIDE}
            for i in range(1, num_images + 1)
        ],
        "categories": [{"id": i, "name": f"class{i}"} for i in range(1, num_classes + 1)],
        "annotations": annotations,
    }


def simulate_detections(
    annotations: dict[str, Any],
    seed: int,
    *,
    skill: float = 0.0,
    seed_noise: float = 0.7,
    per_image: int = 100,
) -> list[dict[str, Any]]:
    """Return a detector's detections on :func:`simulate_annotations`, in COCO's results format.

    Args:
        seed: of the training run.
        skill: shifts the quality of every detection; about 0.04 is one AP.
        seed_noise: standard deviation of the seed's effect on an object, relative to that of the
            objects' difficulty.
        per_image: detections per image, false ones included.
    """
    rng = np.random.default_rng((1, seed))
    num_classes = len(annotations["categories"])
    rows, found = [], np.zeros(len(annotations["images"]) + 1, int)
    truths = annotations["annotations"]
    boxes = np.array([a["bbox"] for a in truths]).reshape(-1, 4)
    quality = 0.9 + skill - np.array([a["difficulty"] for a in truths])
    quality += seed_noise * rng.normal(size=len(truths))
    # a box moved sideways by w (1 - IoU) / (1 + IoU) has this IoU with the object's
    iou = 1 / (1 + np.exp(-0.9 * quality - 0.3 * rng.normal(size=len(truths))))
    boxes[:, 0] += rng.choice((-1, 1), len(truths)) * boxes[:, 2] * (1 - iou) / (1 + iou)
    score = 1 / (1 + np.exp(-1.5 * (quality - 0.8) - 0.8 * rng.normal(size=len(truths))))
    for truth, box, confidence in zip(truths, boxes, score):
        found[truth["image_id"]] += 1
        rows.append((truth["image_id"], truth["category_id"], box, confidence))
    for image in annotations["images"]:
        count = max(0, per_image - found[image["id"]])
        sides = np.exp(rng.uniform(np.log(12), np.log(320), size=(count, 2)))
        corners = rng.uniform(0, _SIDE, size=(count, 2))
        classes = rng.integers(1, num_classes + 1, size=count)
        confidences = rng.beta(0.5, 8, size=count)
        rows += zip(
            [image["id"]] * count, classes, np.concatenate([corners, sides], 1), confidences
        )
    return [
        {
            "image_id": image_id,
            "category_id": int(category_id),
            "bbox": box.round(2).tolist(),
            "score": round(float(confidence), 3),  # with ties
        }
        for image_id, category_id, box, confidence in rows
    ]
