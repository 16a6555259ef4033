"""Matching and accumulation against pycocotools, on the whole set and on resamples."""

import contextlib
import copy
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from aa_detection.comparison.comparison import mean_precision
from aa_detection.comparison.matching import match
from aa_detection.comparison.resampling import average_precision, draw_resamples, summarize
from aa_detection.comparison.results import read_results
from aa_detection.data import index_annotations
from aa_detection.evaluation import coco_ap
from aa_detection.studies.simulation import simulate_annotations, simulate_detections


def random_case(seed, *, images, classes, per_image, crowds, ties, spread):
    """Small images full of what COCO treats specially, by a seed."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    # classes without objects, images without objects, ids that are no places
    annotated = rng.random(classes) < 0.8
    for image in range(images):
        for _ in range(rng.integers(0, 5) * (rng.random() < 0.8)):
            size = np.exp(rng.uniform(2, 5, size=2))
            box = [*rng.uniform(0, 60, size=2).round(1).tolist(), *size.round(1).tolist()]
            category = int(rng.integers(classes))
            if annotated[category]:
                annotations.append(
                    {
                        "id": 7 + 3 * len(annotations),
                        "image_id": 100 - 2 * image,
                        "category_id": 10 * category + 1,
                        "bbox": box,
                        # on the borders of COCO's ranges too
                        "area": float(rng.choice([32**2, 96**2, size.prod(), 0.6 * size.prod()])),
                        "iscrowd": int(rng.random() < crowds),
                    }
                )
        if rng.random() < 0.2:
            continue  # nothing found here
        near = [a["bbox"] for a in annotations if a["image_id"] == 100 - 2 * image]
        for _ in range(per_image):
            if near and rng.random() < 0.6:
                box = np.array(near[rng.integers(len(near))]) + rng.normal(0, spread, 4)
            else:
                box = rng.uniform(0, 100, 4)
            detections.append(
                {
                    "image_id": 100 - 2 * image,
                    "category_id": 10 * int(rng.integers(classes)) + 1,
                    "bbox": box.clip(0).tolist(),
                    "score": float(rng.integers(5) / 4 if ties else rng.random()),
                }
            )
    rng.shuffle(detections)
    content = {
        "images": [{"id": 100 - 2 * i, "file_name": "", "width": 100, "height": 100}
                   for i in range(images)],
        "categories": [{"id": 10 * i + 1, "name": f"c{i}"} for i in range(classes)],
        "annotations": annotations,
    }  # fmt: skip
    return content, detections


def ours(coco, detections, weights=None):
    """AP … APl, and every class's."""
    weights = np.ones((1, len(coco.imgs))) if weights is None else weights
    metrics = summarize(average_precision(match(coco, read_results(coco, detections)), weights))
    return np.concatenate(metrics, axis=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 8),
    classes=st.integers(1, 4),
    per_image=st.sampled_from([0, 3, 20]),
    crowds=st.sampled_from([0, 0.3, 1]),
    ties=st.booleans(),
    spread=st.sampled_from([0.5, 4.0]),
)
def test_the_whole_set_is_pycocotools(seed, **shape):
    content, detections = random_case(seed, **shape)
    coco = index_annotations(content)
    expected = list(coco_ap(coco, copy.deepcopy(detections)).values())
    np.testing.assert_allclose(ours(coco, detections)[0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("rank", "found"), [(99, True), (100, False)])
def test_a_hundred_detections_of_a_class_count(rank, found):
    seeds = {"images": 3, "classes": 1, "per_image": 260, "crowds": 0.1, "ties": True, "spread": 3}
    content, detections = random_case(6, **seeds)
    detections = [d for d in detections if d["image_id"] != 100]
    truth = {"id": 1, "image_id": 100, "category_id": 1, "bbox": [5.0, 5, 40, 40], "area": 1600}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 100]
    content["annotations"].append({**truth, "iscrowd": 0})
    detection = {"image_id": 100, "category_id": 1, "bbox": [80.0, 80, 9, 9]}
    detections += [{**detection, "score": 2 - 0.001 * place} for place in range(150)]
    detections[-150 + rank]["bbox"] = truth["bbox"]
    coco = index_annotations(content)
    expected = list(coco_ap(coco, copy.deepcopy(detections)).values())
    np.testing.assert_allclose(ours(coco, detections)[0], expected, rtol=0, atol=1e-9)
    alone = index_annotations({**content, "images": content["images"][:1],
                     "annotations": content["annotations"][-1:]})  # fmt: skip
    assert (ours(alone, detections[-150:])[0, 0] > 0) == found


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_is_pycocotools_on_copies_of_the_images(seed):
    # without ties, whose order among copies of one image means nothing
    shape = {"images": 6, "classes": 3, "per_image": 12, "crowds": 0.1, "ties": False, "spread": 3}
    content, detections = random_case(seed, **shape)
    coco = index_annotations(content)
    weights = draw_resamples(6, 5, np.random.default_rng(seed))
    assert (weights.sum(axis=1) == 6).all() and (weights == 0).any()
    drawn = ours(coco, detections, weights)
    for row, counts in zip(drawn, weights):
        copies, copied_detections = {**content, "images": [], "annotations": []}, []
        for image_id, count in zip(sorted(coco.imgs), counts):
            for number in range(count):
                new_id = 1000 * image_id + number
                copies["images"].append({**coco.imgs[image_id], "id": new_id})
                for annotation in coco.imgToAnns[image_id]:
                    new = {"id": len(copies["annotations"]) + 1, "image_id": new_id}
                    copies["annotations"].append({**annotation, **new})
                copied_detections += [
                    {**d, "image_id": new_id} for d in detections if d["image_id"] == image_id
                ]
        expected = list(coco_ap(index_annotations(copies), copied_detections).values())
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("side", [32.0, 96.0])
def test_an_area_on_the_border_of_two_ranges_is_in_both(side):
    """Of a detection in an image without objects too, which pycocotools is not asked about."""
    box, area = [5.0, 5.0, side, side], side**2
    content = {
        "images": [{"id": i, "file_name": "", "width": 200, "height": 200} for i in (1, 2)],
        "categories": [{"id": 1, "name": "c"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0}
        ],
    }
    detections = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.3 * i} for i in (1, 2)]
    coco = index_annotations(content)
    found = ours(coco, detections)[0]
    expected = list(coco_ap(coco, copy.deepcopy(detections)).values())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert np.isclose(found[3:6], 50).sum() == 2  # the false one comes first


def test_a_larger_set():
    content = simulate_annotations(60, 12, seed=3)
    detections = simulate_detections(content, seed=4)
    coco = index_annotations(content)
    expected = list(coco_ap(coco, copy.deepcopy(detections)).values())
    found = ours(coco, detections)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert (found > 5).all() and (found < 95).all()


def test_blocks_do_not_show(monkeypatch):
    content, detections = random_case(
        2, images=8, classes=2, per_image=20, crowds=0.1, ties=True, spread=3
    )
    coco = index_annotations(content)
    weights = draw_resamples(8, 30, np.random.default_rng(0))
    whole = ours(coco, detections, weights)
    monkeypatch.setattr("aa_detection.comparison.resampling._BLOCK", 100)
    np.testing.assert_array_equal(ours(coco, detections, weights), whole)


@pytest.mark.parametrize("iou", [0.5, 0.75, 0.95])
def test_precision_is_pycocotools(iou):
    content = simulate_annotations(40, 4, seed=1)
    detections = simulate_detections(content, seed=2, per_image=30)
    coco = index_annotations(content)
    precision = mean_precision(match(coco, read_results(coco, detections)), iou)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    at = np.flatnonzero(np.isclose(evaluation.params.iouThrs, iou))[0]
    expected = 100 * evaluation.eval["precision"][at, :, :, 0, -1].mean(axis=1)
    np.testing.assert_allclose(precision, expected, rtol=0, atol=1e-9)
