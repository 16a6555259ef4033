"""``load_detector``: what it finds is what the evaluation writes."""

import json

import numpy as np
import pytest

from aa_detection.data.images import read_image


def by_image(records):
    found = {}
    for record in records:
        found.setdefault(record["image_id"], []).append(record)
    return found


@pytest.fixture
def pictures(sample_dataset):
    content = json.loads((sample_dataset / "annotations/val.json").read_text())
    folder = sample_dataset / "val"
    paths = {image["id"]: folder / image["file_name"] for image in content["images"]}
    categories = sorted(category["id"] for category in content["categories"])
    return {i: np.asarray(read_image(path))[:, :, ::-1] for i, path in paths.items()}, categories


@pytest.fixture
def agrees(run, trained, tiny_config, pictures, tmp_path):
    """Evaluates, and compares with what the detector finds in the same pictures."""

    def _agrees(engine, *overrides):
        overrides = ["MODEL.WEIGHTS", str(trained(engine)[0] / "model_final.pth"), *overrides]
        run(engine, tmp_path, *overrides, eval_only=True)
        content = json.loads((tmp_path / "inference/coco_instances_results.json").read_text())
        written = by_image(content)
        detector = engine.load_detector(tiny_config(engine, *overrides))
        images, categories = pictures
        for image_id, image in images.items():
            (found,) = detector([image])
            assert found.to_coco(image_id, categories) == written.get(image_id, [])
            assert 0 < len(found) <= 20
        assert len(content) > 40

    return _agrees


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_finds_what_the_evaluation_writes(engine, agrees, order):
    agrees(engine, "INPUT.FORMAT", order)


def test_half_precision_is_for_training_only(torchvision_engine, agrees):
    agrees(torchvision_engine, "SOLVER.AMP.ENABLED", "True")


def test_bfloat16_finds_nearly_the_same(engine, trained, tiny_config, pictures):
    cfg = tiny_config(engine, "OUTPUT_DIR", str(trained(engine)[0]))
    exact, rounded = engine.load_detector(cfg), engine.load_detector(cfg, bfloat16=True)
    images = list(pictures[0].values())
    for expected, found in zip(exact(images), rounded(images), strict=True):
        most = min(len(expected), len(found))
        assert most > 0
        # bfloat16 has a relative precision of 2 ** -8, and it was used
        assert 0 < np.abs(found.scores[:most] - expected.scores[:most]).max() < 0.02
        # where scores are close their order changes: the nearest box of the class
        same = found.classes[:, None] == expected.classes
        corners = np.abs(found.boxes[:, None] - expected.boxes).max(axis=2)
        assert np.median(np.where(same, corners, np.inf).min(axis=1)) < 2


def test_a_batch_finds_what_each_picture_alone_does(engine, trained, tiny_config, pictures):
    detector = engine.load_detector(tiny_config(engine, "OUTPUT_DIR", str(trained(engine)[0])))
    images = list(pictures[0].values())
    images += [images[0][:, ::-1], images[1][:50, :20]]
    for image, together in zip(images, detector(images), strict=True):
        (alone,) = detector([image])
        assert len(together) == len(alone) > 0
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(together.boxes[:1], alone.boxes[:1], atol=1e-2)
        assert together.boxes.max() <= max(image.shape)


def test_a_line_of_pixels_is_a_picture(engine, trained, tiny_config):
    detector = engine.load_detector(tiny_config(engine, "OUTPUT_DIR", str(trained(engine)[0])))
    assert detector.input_size(1, 500) == (1, 96)
    (found,) = detector([np.full((1, 500, 3), 90, np.uint8)])
    assert 0 < len(found) <= 20  # those that are flat once clipped are none
    x1, y1, x2, y2 = found.boxes.T
    assert (0 <= x1).all() and (x1 < x2).all() and (x2 <= 500).all()
    assert (0 <= y1).all() and (y1 < y2).all() and (y2 <= 1).all()
