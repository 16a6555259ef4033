"""Scale jitter and crop are detectron2's in both engines."""

import pytest
import torch

from aa_detection.data import get_coco_dataset
from aa_detection.engines.torchvision.data import DetectionDataset, crop_window, fit

JITTER = ["INPUT.SCALE_JITTER.ENABLED", "True", "INPUT.SCALE_JITTER.SIZE", "64",
          "INPUT.SCALE_JITTER.RANGE", "(0.5, 2.0)"]  # fmt: skip


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (333, 500), (64, 64), (50, 31)])
def test_sizes_and_windows_are_detectron2s(size, monkeypatch):
    transforms = pytest.importorskip(
        "detectron2.data.transforms", reason="detectron2 is not installed"
    )
    import numpy as np

    image = np.zeros((*size, 3), dtype=np.uint8)
    for factor in (0.8, 0.93, 1.2):
        resize = transforms.ResizeScale(factor, factor, 64, 64).get_transform(image)
        assert fit(*size, factor * 64) == (resize.new_h, resize.new_w)
    for place in (0.0, 0.37, 1.0):
        monkeypatch.setattr(np.random, "uniform", lambda low, high, place=place: place)
        (crop,) = transforms.FixedSizeCrop((64, 64), pad=False).get_transform(image).transforms
        top, left, height, width = crop_window(*size, 64, place)
        assert (top, left) == (crop.y0, crop.x0)
        assert crop.apply_image(image).shape[:2] == (height, width)


def test_embedded_training_images_are_jittered_windows(tiny_config, torchvision_engine):
    cfg = tiny_config(torchvision_engine, *JITTER)
    data = DetectionDataset(cfg, [get_coco_dataset("aa_sample_train")], train=True)
    sizes, cut = set(), 0
    for seed in range(40):
        image, target = data[0, seed]
        again, same = data[0, seed]
        assert torch.equal(image, again) and torch.equal(target["boxes"], same["boxes"])
        height, width = image.shape[1:]
        sizes.add((height, width))
        boxes = target["boxes"]
        assert len(boxes) == len(target["labels"])
        cut += len(boxes) < len(data.records[0][2])
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(sizes) > 10 and max(max(size) for size in sizes) == 64
    assert cut, "no window left an object out"
    evaluated = DetectionDataset(cfg, [get_coco_dataset("aa_sample_val")], train=False)
    plain_cfg = tiny_config(torchvision_engine)
    plain = DetectionDataset(plain_cfg, [get_coco_dataset("aa_sample_val")], train=False)
    assert torch.equal(evaluated[0][0], plain[0][0])


def test_a_box_goes_with_its_pixels(tiny_config, torchvision_engine):
    """A bright object on black is where its box says, scaled, cut and flipped."""
    cfg = tiny_config(torchvision_engine, *JITTER)
    data = DetectionDataset(cfg, [get_coco_dataset("aa_sample_train")], train=True)
    path, image_id, boxes, labels, record = data.records[0]
    import numpy as np
    from PIL import Image

    pixels = np.zeros((record["height"], record["width"], 3), dtype=np.uint8)
    pixels[20:60, 30:90] = 255
    picture = path.parent / "bright.png"
    Image.fromarray(pixels).save(picture)
    box = torch.tensor([[30.0, 20.0, 60.0, 40.0]])  # x, y, width, height
    data.records[0] = (picture, image_id, box, torch.tensor([0]), record)
    seen = 0
    for seed in range(30):
        image, target = data[0, seed]
        for x1, y1, x2, y2 in target["boxes"].tolist():
            rows, columns = (image[0] > 127).nonzero(as_tuple=True)
            if x2 - x1 < 3 or y2 - y1 < 3:
                continue
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert torch.tensor([x1, y1, x2, y2]) == pytest.approx(torch.stack(found), abs=1.01)
            seen += 1
    picture.unlink()
    assert seen > 10


def test_detectron2s_training_images_are_jittered_windows(tiny_config, detectron2_engine):
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances

    dataset = get_coco_dataset("aa_sample_train")
    name = "jittered_sample"
    if name not in DatasetCatalog:
        register_coco_instances(name, {}, str(dataset.annotation_file), str(dataset.image_root))
    cfg = tiny_config(detectron2_engine, *JITTER, "DATASETS.TRAIN", f"('{name}',)")
    batches = iter(detectron2_engine.AATrainer.build_train_loader(cfg))
    sizes = set()
    for _ in range(10):
        for record in next(batches):
            size = tuple(record["image"].shape[1:])
            sizes.add(size)
            assert record["instances"].image_size == size
    assert len(sizes) > 5 and max(max(size) for size in sizes) == 64
    DatasetCatalog.remove(name)
