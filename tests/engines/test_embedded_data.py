"""Images, boxes and their order."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from aa_detection.data import CocoDataset, get_coco_dataset
from aa_detection.engines.torchvision.data import DetectionDataset, train_loader
from aa_detection.training.batches import TrainingBatches


@pytest.fixture
def dataset(tiny_config, torchvision_engine):
    cfg = tiny_config(torchvision_engine)
    return DetectionDataset(cfg, [get_coco_dataset("aa_sample_train")], train=True)


def batches(dataset, **changes):
    settings = {"seed": 5, "start": 0, "end": 40, "group": True, "rank": 0, "world_size": 1}
    wide = [dataset.is_wide(index) for index in range(len(dataset))]
    return TrainingBatches(wide, 2, **{"parts": 1, **settings, **changes})


def test_test_images_are_the_ones_detectron2_sees(
    tiny_config, torchvision_engine, detectron2_engine
):
    from detectron2.data import DatasetMapper
    from detectron2.data.datasets import load_coco_json

    sample = get_coco_dataset("aa_sample_val")
    cfg = tiny_config(torchvision_engine, "INPUT.MIN_SIZE_TEST", "75", "INPUT.MAX_SIZE_TEST", "100")
    images = DetectionDataset(cfg, [sample], train=False)
    mapper = DatasetMapper(
        tiny_config(detectron2_engine, "INPUT.MIN_SIZE_TEST", "75", "INPUT.MAX_SIZE_TEST", "100"),
        is_train=False,
    )
    for record in load_coco_json(str(sample.annotation_file), str(sample.image_root)):
        expected = mapper(record)
        image, target = next(
            item for item in images if int(item[1]["image_id"]) == expected["image_id"]
        )
        assert torch.equal(image, expected["image"])
        assert target["size"].tolist() == [expected["height"], expected["width"]]


def test_the_stream_is_a_function_of_the_seed(dataset):
    whole = list(batches(dataset))
    assert whole == list(batches(dataset))
    assert whole != list(batches(dataset, seed=6))
    assert list(batches(dataset, start=13)) == whole[13:]
    assert len(batches(dataset, start=13)) == 40
    parts = list(batches(dataset, start=13, parts=2))
    assert [first + second for first, second in zip(parts[::2], parts[1::2])] == whole[13:]
    assert len(batches(dataset, start=13, parts=2)) == 80


def test_an_epoch_holds_every_image_once(dataset):
    count = len(dataset)
    stream = [index for index, _ in itertools.islice(batches(dataset)._stream(), 2 * count)]
    assert sorted(stream[:count]) == sorted(stream[count:]) == list(range(count))
    assert stream[:count] != stream[count:]


def test_processes_share_the_stream(dataset):
    shares = [list(batches(dataset, rank=rank, world_size=2, group=False)) for rank in (0, 1)]
    alone = list(itertools.chain(*batches(dataset, end=80, group=False)))
    assert sorted(itertools.chain(*itertools.chain(*shares)), key=lambda k: k[1]) == alone


def test_a_batch_is_wide_or_tall(dataset):
    for batch in batches(dataset):
        assert len({dataset.is_wide(index) for index, _ in batch}) == 1
    assert any(
        len({dataset.is_wide(index) for index, _ in batch}) == 2
        for batch in batches(dataset, group=False)
    )


def test_augmentation_follows_the_key_in_any_worker(tiny_config, torchvision_engine):
    sample = [get_coco_dataset("aa_sample_train")]
    loaded = []
    for workers in ("0", "2"):
        cfg = tiny_config(torchvision_engine, "DATALOADER.NUM_WORKERS", workers)
        loader = train_loader(cfg, sample, seed=1, start=1, rank=0, world_size=1)
        loaded.append([(images, targets) for images, targets in loader])
    assert len(loaded[0]) == 3
    torch.testing.assert_close(loaded[0], loaded[1], rtol=0, atol=0)


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_flips_move_boxes_with_the_pixels(tmp_path, tiny_config, torchvision_engine, flip):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[4:14, 6:26] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 60, "height": 40}],
        "categories": [{"id": 3, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [6, 4, 20, 10], "area": 200,
             "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 60, 40], "area": 2400,
             "iscrowd": 1},
        ],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    cfg = tiny_config(
        torchvision_engine, "INPUT.RANDOM_FLIP", flip, "INPUT.MIN_SIZE_TRAIN", "(80,)",
        "INPUT.MAX_SIZE_TRAIN", "200",
    )  # fmt: skip
    images = DetectionDataset(cfg, [CocoDataset("x", tmp_path / "a.json", tmp_path)], train=True)
    seen = set()
    for seed in range(10):
        image, target = images[0, seed]
        assert image.shape == (3, 80, 120)
        x1, y1, x2, y2 = target["boxes"][0].int().tolist()
        assert len(target["boxes"]) == 1  # the crowd is no object to learn
        assert target["labels"].tolist() == [0]
        inside = torch.zeros(80, 120, dtype=torch.bool)
        inside[y1:y2, x1:x2] = True
        assert image[:, inside].float().mean() > 230 and image[:, ~inside].float().mean() < 5
        seen.add((x1, y1))
    assert len(seen) == 2


def test_exif_rotation_and_grey_images(tmp_path, tiny_config, torchvision_engine):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    Image.new("L", (30, 20), 9).save(tmp_path / "a.jpg", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 30}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    cfg = tiny_config(torchvision_engine, "INPUT.MIN_SIZE_TEST", "0")
    images = DetectionDataset(cfg, [CocoDataset("x", tmp_path / "a.json", tmp_path)], train=False)
    image, target = images[0]
    assert image.shape == (3, 30, 20) and target["boxes"].shape == (0, 4)
