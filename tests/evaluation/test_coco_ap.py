import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.evaluation import coco_ap


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_sample_dataset(root, num_train=1, num_val=12, seed=2)
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "aa_sample/annotations/val.json"))


def truth(coco, score=0.9):
    keys = ("image_id", "category_id", "bbox")
    return [{**{key: a[key] for key in keys}, "score": score} for a in coco.anns.values()]


def test_the_truth_is_perfect(coco, capsys):
    metrics = coco_ap(coco, truth(coco))
    assert metrics["AP"] == metrics["AP50"] == metrics["APs"] == pytest.approx(100)
    assert metrics["AP-star"] == pytest.approx(100)
    assert capsys.readouterr().out == ""


def test_nothing_found_is_zero(coco):
    metrics = coco_ap(coco, [])
    assert metrics["AP"] == metrics["APs"] == metrics["AP-circle"] == 0
    json.dumps(metrics)


def test_what_is_not_annotated_is_nan(coco):
    small = COCO()
    small.dataset = {**coco.dataset, "annotations": [
        {**a, "area": 10.0, "id": i} for i, a in enumerate(coco.dataset["annotations"][:3], 1)
    ]}  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        small.createIndex()
    metrics = coco_ap(small, truth(small))
    assert np.isnan(metrics["APl"]) and metrics["APs"] == pytest.approx(100)


def test_the_numbers_are_pycocotools(coco):
    generator = np.random.default_rng(0)
    detections = []
    for detection in truth(coco):
        box = np.array(detection["bbox"]) + generator.normal(0, 3, 4)
        if generator.random() < 0.8:
            detections.append(
                {**detection, "bbox": box.clip(1).tolist(), "score": float(generator.random())}
            )
    metrics = coco_ap(coco, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    assert [metrics[name] / 100 for name in names] == pytest.approx(evaluation.stats[:6])
    assert 5 < metrics["AP"] < 95
    per_class = [value for name, value in metrics.items() if name.startswith("AP-")]
    assert np.mean(per_class) == pytest.approx(metrics["AP"])
