"""``aa_detection.Detector``: from a run to the objects in a picture, in two lines."""

import json
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from aa_detection import Detector
from aa_detection.config import ConfigError
from aa_detection.data import DatasetError
from aa_detection.data.images import read_image


@pytest.fixture
def detector(trained, engine, engine_name):
    return Detector.load(trained(engine)[0], engine=engine_name)


@pytest.fixture(scope="module")
def pictures(sample_dataset):
    return sorted((sample_dataset / "val").iterdir())


def same(one, other):
    return (
        np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.scores, other.scores)
        and one.class_names == other.class_names
    )


def test_finds_what_the_evaluation_wrote(detector, trained, engine, pictures, sample_dataset):
    written = json.loads((trained(engine)[0] / "inference/coco_instances_results.json").read_text())
    content = json.loads((sample_dataset / "annotations/val.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = detector.predict([sample_dataset / "val" / i["file_name"] for i in content["images"]],
                             score_threshold=0, batch_size=1)  # fmt: skip
    assert len(found) == len(content["images"])
    for image, each in zip(content["images"], found):
        own = [row for row in written if row["image_id"] == image["id"]]
        assert each.to_coco(image["id"]) == own
        assert each.class_names == [names[row["category_id"]] for row in own]
        assert len(each) == len(each.scores) == len(each.class_ids) == len(each.boxes) > 0


def test_a_folder_and_a_checkpoint_are_the_same(engine, engine_name, trained, detector, pictures):
    from_file = Detector.load(str(trained(engine)[0] / "model_final.pth"), engine=engine_name)
    expected = detector.predict(pictures[0], score_threshold=0)
    assert same(from_file.predict(pictures[0], score_threshold=0), expected) and len(expected)


def test_a_run_of_before(engine, engine_name, trained, detector, pictures, tmp_path):
    """Its model_final.pth carries no config, which stands beside it."""
    folder = shutil.copytree(trained(engine)[0], tmp_path / "old")
    content = torch.load(folder / "model_final.pth", weights_only=True)
    del content["aa_detection"]
    torch.save(content, folder / "model_final.pth")
    old = Detector.load(folder, engine=engine_name)
    assert same(old.predict(pictures[0], score_threshold=0),
                detector.predict(pictures[0], score_threshold=0))  # fmt: skip
    (folder / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="old: its model_final.pth carries no config, and there"):
        Detector.load(folder, engine=engine_name)


def test_whatever_a_picture_is_in(detector, pictures, tmp_path):
    path = pictures[0]
    image = read_image(path)
    rgb = np.asarray(image)
    forms = [str(path), path, image, Image.open(path), rgb]
    found = detector.predict(forms, score_threshold=0)
    alone = [detector.predict(form, score_threshold=0) for form in forms]
    alone.append(detector.predict(cv2.imread(str(path)), bgr=True, score_threshold=0))
    assert len(found) == len(forms) and len(alone[0])
    assert all(same(each, alone[0]) for each in alone)
    for each in found:  # of a batch: to rounding
        np.testing.assert_allclose(each.scores, alone[0].scores, atol=1e-5)
    # the order matters
    assert not same(detector.predict(rgb, bgr=True, score_threshold=0), alone[0])


def test_pillows_images_are_turned_as_their_files_are(detector, pictures, tmp_path):
    image = read_image(pictures[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        found = detector.predict(opened, score_threshold=0)
    assert same(found, detector.predict(tmp_path / "turned.png", score_threshold=0)) and len(found)
    assert found.draw().size == image.size[::-1]
    grey, palette = image.convert("L"), image.convert("P")
    for other in (grey, palette, image.convert("RGBA")):
        expected = detector.predict(np.asarray(other.convert("RGB")), score_threshold=0)
        assert same(detector.predict(other, score_threshold=0), expected)


def test_empty_lists_and_batches(detector, pictures):
    assert detector.predict([]) == []
    sizes = [(60, 90), (90, 60), (60, 90), (1, 200), (64, 64)]
    images = [np.full((*size, 3), 80, np.uint8) for size in sizes]
    found = detector.predict(tuple(images), score_threshold=0, batch_size=2)
    assert len(found) == len(sizes)
    for (height, width), each in zip(sizes, found):
        assert (each.boxes <= (width, height, width, height)).all() and len(each)


def test_the_threshold(detector, pictures):
    everything = detector.predict(pictures[0], score_threshold=0)
    middle = float(np.median(everything.scores))
    kept = detector.predict(pictures[0], score_threshold=middle)
    assert kept.scores.tolist() == [s for s in everything.scores.tolist() if s >= middle]
    nothing = detector.predict(pictures[0], score_threshold=1)
    assert (len(nothing), nothing.to_coco(), repr(nothing)) == (0, [], "<no detections>")
    assert np.array_equal(np.asarray(nothing.draw()), np.asarray(read_image(pictures[0])))


def test_draws(detector, pictures):
    found = detector.predict(pictures[0], score_threshold=0)
    drawn, original = found.draw(), read_image(pictures[0])
    assert drawn.mode == "RGB" and drawn.size == original.size
    changed = (np.asarray(drawn) != np.asarray(original)).any(axis=2)
    assert 0 < changed.mean() < 1
    # an array is drawn in its own colours, whichever their order
    pixels = np.asarray(original)
    nothing = [
        detector.predict(pixels, score_threshold=1).draw(),
        detector.predict(pixels[:, :, ::-1], bgr=True, score_threshold=1).draw(),
    ]
    assert all(np.array_equal(np.asarray(each), pixels) for each in nothing)


def test_supervision(detector, pictures, monkeypatch):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = detector.predict(pictures[0], score_threshold=0)
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert np.array_equal(theirs.xyxy, found.boxes)
    assert np.array_equal(theirs.confidence, found.scores)
    assert np.array_equal(theirs.class_id, found.class_ids)
    assert list(theirs.data["class_name"]) == found.class_names
    assert len(detector.predict(pictures[0], score_threshold=1).to_supervision()) == 0


def test_without_supervision(detector, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    found = detector.predict(pictures[0])
    with pytest.raises(ImportError, match=r"^to_supervision\(\) needs supervision.*pip install"):
        found.to_supervision()


def test_attention(detector, pictures):
    height, width = np.asarray(read_image(pictures[0])).shape[:2]
    maps = detector.attention(pictures[0], [(0, 0), (width / 2, height / 2), (width, height)])
    assert len(maps) == 6
    for name, each in maps.items():
        assert name.startswith("backbone.") and each.shape[:2] == (8, 3)
        torch.testing.assert_close(each.sum((2, 3)), torch.ones(8, 3))
    bgr = cv2.imread(str(pictures[0]))
    again = detector.attention(bgr, [(0, 0)], bgr=True)
    for name, each in maps.items():
        torch.testing.assert_close(again[name][:, 0], each[:, 0])
    with pytest.raises(ValueError, match="is outside the picture"):
        detector.attention(pictures[0], [(width + 1, 3)])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"expected an array \(H, W, 3\) of uint8, got \(4, 4\) of"),
        (np.zeros((3, 4, 4), np.uint8), r"expected an array \(H, W, 3\)"),
        (np.zeros((4, 4, 3)), r"got \(4, 4, 3\) of float64"),
        (np.zeros((0, 4, 3), np.uint8), r"expected an array with pixels, got \(0, 4, 3\)"),
        (torch.zeros(3, 4, 4), "expected a path, an image of Pillow's, an array .* got Tensor"),
        (None, "got NoneType"),
        ([None], "got NoneType"),
        (Image.new("F", (4, 4)), "mode F"),
    ],
    ids=["grey", "first", "floats", "empty", "tensor", "none", "list", "mode"],
)
def test_no_picture(torchvision_engine, trained, images, message):
    detector = Detector.load(trained(torchvision_engine)[0], engine="torchvision")
    with pytest.raises(ValueError, match=message) as refused:
        detector.predict(images)
    assert "\n" not in str(refused.value)


def test_no_image_file(torchvision_engine, trained, tmp_path):
    detector = Detector.load(trained(torchvision_engine)[0], engine="torchvision")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match="notes.txt cannot be read: it is no image of a format"):
        detector.predict(tmp_path / "notes.txt")
    with pytest.raises(DatasetError, match="missing.jpg cannot be read: No such file"):
        detector.predict(["missing.jpg"])
    with pytest.raises(DatasetError, match="Is a directory"):
        detector.predict(tmp_path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold must be from 0 to 1, got 1.5"),
        ({"score_threshold": float("nan")}, "score_threshold must be from 0 to 1, got nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
    ids=["above", "nan", "batch"],
)
def test_values_out_of_range(torchvision_engine, trained, how, message):
    detector = Detector.load(trained(torchvision_engine)[0], engine="torchvision")
    with pytest.raises(ValueError, match=message):
        detector.predict([], **how)


def test_what_is_no_run(engine_name, trained, tmp_path):
    def refused(path, **how):
        with pytest.raises(ConfigError) as error:
            Detector.load(path, engine=engine_name, **how)
        assert "\n" not in str(error.value)
        return str(error.value)

    missing = str(tmp_path / "none")
    expected = f"{missing}: no such file or folder; expected a run's, or a checkpoint"
    assert refused(missing) == expected
    assert "not the folder of a finished run: it has no model_final.pth" in refused(tmp_path)
    (tmp_path / "notes.pth").write_text("no tensors")
    assert "notes.pth: damaged, or not a file of tensors" in refused(tmp_path / "notes.pth")
    (tmp_path / "model_final.pth").write_bytes(b"")
    assert refused(tmp_path).endswith("model_final.pth: the file is empty")


def test_the_device(engine, engine_name, trained):
    path = trained(engine)[0]
    detector = Detector.load(path, engine=engine_name, device="cpu")
    assert {p.device.type for p in detector.model.parameters()} == {"cpu"}
    with pytest.raises(ConfigError, match="MODEL.DEVICE"):
        Detector.load(path, engine=engine_name, device="gpu")


def test_it_is_what_the_engines_load(engine, trained, tiny_config):
    detector = engine.load_detector(tiny_config(engine, "OUTPUT_DIR", str(trained(engine)[0])))
    assert isinstance(detector, Detector)
