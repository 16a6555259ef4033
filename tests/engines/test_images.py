"""Images that are unusual work on both engines; those that break during training are named."""

import json

import numpy as np
import pytest
from PIL import Image

from aa_detection.data import ImageError, register_coco_dataset

ANNOTATION = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [4, 4, 20, 10]}


@pytest.fixture
def register(tmp_path, monkeypatch):
    """``register(size)``: a dataset of the image ``image.png`` alone, without area and iscrowd."""
    monkeypatch.setattr("aa_detection.data.catalog._registered", {})

    def _register(width, height):
        content = {
            "images": [{"id": 7, "file_name": "image.png", "width": width, "height": height}],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [ANNOTATION],
        }
        path = tmp_path / "set.json"
        path.write_text(json.dumps(content))
        name = f"images_of_{tmp_path.name}"  # detectron2's catalog remembers
        return register_coco_dataset(name, path, tmp_path).name

    return _register


def keys(name):
    return [
        "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)",
        "MODEL.RETINANET.NUM_CLASSES", "1", "SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_ITER", "2",
    ]  # fmt: skip


def pixels_of(engine, cfg, name):
    """The test image as the engine's model gets it, (3, H, W)."""
    if engine.__name__.endswith("torchvision"):
        from aa_detection.data import get_coco_dataset
        from aa_detection.engines.torchvision.data import DetectionDataset

        return DetectionDataset(cfg, [get_coco_dataset(name)], train=False)[0][0]
    from detectron2.data.datasets import load_coco_json

    from aa_detection.data import get_coco_dataset
    from aa_detection.engines.detectron2.mapper import ImageMapper

    dataset = get_coco_dataset(name)
    (record,) = load_coco_json(str(dataset.annotation_file), str(dataset.image_root))
    return ImageMapper(cfg, is_train=False)(record)["image"]


GREY = np.arange(64 * 32, dtype=np.uint16).reshape(32, 64)
KINDS = {
    "16 bits": (Image.fromarray(GREY * 32), GREY // 8),
    "grey": (Image.fromarray((GREY // 8).astype(np.uint8)), GREY // 8),
    "palette": (Image.fromarray((GREY // 8).astype(np.uint8)).convert("P"), GREY // 8),
    "alpha": (Image.fromarray((GREY // 8).astype(np.uint8)).convert("RGBA"), GREY // 8),
    "bilevel": (Image.fromarray(GREY % 3 == 0), 255 * (GREY % 3 == 0)),
    "CMYK": (Image.fromarray((GREY // 8).astype(np.uint8)).convert("CMYK"), GREY // 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_unusual_images_are_seen_as_they_look(engine, tiny_config, register, tmp_path, kind):
    image, expected = KINDS[kind]
    image.save(tmp_path / "image.png", format="TIFF" if image.mode == "CMYK" else "PNG")
    name = register(64, 32)
    cfg = tiny_config(engine, "INPUT.MIN_SIZE_TEST", "0", *keys(name))
    pixels = pixels_of(engine, cfg, name).numpy()
    assert np.abs(pixels - expected[None].astype(int)).max() <= 1


def test_an_image_turned_by_exif(engine, tiny_config, register, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    grey = (GREY // 8).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "image.png", exif=exif)
    name = register(32, 64)
    cfg = tiny_config(engine, "INPUT.MIN_SIZE_TEST", "0", *keys(name))
    assert (pixels_of(engine, cfg, name).numpy() == np.rot90(grey, -1)).all()


def test_annotations_without_area_and_iscrowd_train_and_evaluate(engine, run, register, tmp_path):
    Image.fromarray((GREY // 8).astype(np.uint8)).save(tmp_path / "image.png")
    metrics = run(engine, tmp_path / "out", *keys(register(64, 32)))
    assert metrics["bbox"]["AP"] >= 0  # not NaN: there was something to find


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_image_that_breaks_in_training_is_named(engine, run, register, tmp_path, workers):
    path = tmp_path / "image.png"
    noise = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])  # the header is sound: the checks open no more
    with pytest.raises(ImageError) as error:
        run(engine, tmp_path / "out", *keys(register(64, 32)), "DATALOADER.NUM_WORKERS", workers)
    message = str(error.value)
    assert message.startswith(f"image file {path} (image 7) cannot be read: ")
    assert "\n" not in message
