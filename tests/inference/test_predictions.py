"""Annotated copies and the COCO file, with a detector that finds what is bright."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from aa_detection.evaluation import Detections
from aa_detection.inference import BaseDetector
from aa_detection.inference import predictions as module
from aa_detection.inference.predictions import Predictions, annotate, predict
from aa_detection.inference.sources import Source, find_sources


class Bright(BaseDetector):
    """One detection: the bounding box of the bright pixels; class 1."""

    def __init__(self, stop_after=None):
        super().__init__(nn.Identity())
        self.batches = []
        self.stop_after = stop_after

    def input_size(self, height, width):
        return height, width

    def _detect(self, images):
        if self.stop_after is not None and len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(images))
        found = []
        for image in images:
            rows, columns = np.nonzero(image.min(2) > 200)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes = torch.tensor([box, box]).float()
            found.append(Detections.of(boxes, torch.tensor([0.9, 0.1]), torch.tensor([1, 0])))
        return found


def picture(x, width=80, height=60):
    image = np.zeros((height, width, 3), np.uint8)
    image[20:40, x : x + 20] = 255
    return image


@pytest.fixture
def inputs(tmp_path):
    """A folder with three images, one of them broken, and a video of seven frames."""
    folder = tmp_path / "some input"
    folder.mkdir()
    for i in range(2):
        cv2.imwrite(str(folder / f"image {i}.png"), picture(10 * i))
    (folder / "image 2.jpg").write_bytes(b"broken")
    fourcc = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(folder / "video.avi"), fourcc, 5, (80, 60))
    for i in range(7):
        writer.write(picture(5 * i))
    writer.release()
    return folder


def run(inputs, output, detector, **options):
    predictions = Predictions({3: "dark", 8: "bright"})
    options = {"score_threshold": 0.5, "batch_size": 3} | options
    predict(detector, find_sources([str(inputs)]), output, predictions, **options)
    return predictions


def read_video(path):
    return [frame for frame in Source(str(path), "video", Path()).frames()]


def test_images_and_videos(inputs, tmp_path):
    detector, output = Bright(), tmp_path / "out put"
    seen = []
    predictions = run(inputs, output, detector, on_picture=lambda: seen.append(1))
    assert detector.batches == [2, 3, 3, 1] and len(seen) == 9
    names = sorted(path.name for path in output.iterdir())
    assert names == ["image 0.png", "image 1.png", "video.mp4"]
    drawn = np.asarray(Image.open(output / "image 1.png"))
    assert drawn.shape == (60, 80, 3) and (drawn != picture(10)).any()

    frames = read_video(output / "video.mp4")
    assert len(frames) == 7 and frames[0].shape == (60, 80, 3)
    changed = np.abs(frames[6].astype(int) - picture(30)).max(2) > 60
    assert changed[38:41, 30:50].any() and not changed[45:, :20].any()

    predictions.write(output / "detections.json")
    coco = COCO(str(output / "detections.json"))
    assert [image["file_name"] for image in coco.dataset["images"][:2]] == [
        str(inputs / "image 0.png"), str(inputs / "image 1.png")
    ]  # fmt: skip
    videos = coco.dataset["images"][2:]
    assert [(image["video_id"], image["frame_id"]) for image in videos] == [
        (1, frame) for frame in range(7)
    ]
    assert coco.dataset["videos"] == [{"id": 1, "name": str(inputs / "video.avi")}]
    assert coco.dataset["categories"] == [{"id": 3, "name": "dark"}, {"id": 8, "name": "bright"}]
    assert len(coco.anns) == 9  # the score of 0.1 is below the threshold
    assert coco.anns[2]["bbox"] == [10, 20, 20, 20] and coco.anns[2]["area"] == 400
    assert {annotation["category_id"] for annotation in coco.anns.values()} == {8}

    (line,) = predictions.skipped
    assert "image 2.jpg" in line and "\n" not in line
    summary = predictions.summary()
    assert "2 images, 7 frames of 1 videos: 9 detections\n  bright: 9\n" in summary


def test_an_interrupted_video_is_playable(inputs, tmp_path):
    output = tmp_path / "out"
    predictions = Predictions({3: "dark", 8: "bright"})
    sources = find_sources([str(inputs)])
    with pytest.raises(KeyboardInterrupt):
        options = {"score_threshold": 0.5, "batch_size": 2}
        predict(Bright(stop_after=3), sources, output, predictions, **options)
    assert len(read_video(output / "video.mp4")) == 4
    assert len(predictions.images) == 6
    assert not list(output.glob("*unfinished*"))


def test_another_accident_leaves_no_half_video(inputs, tmp_path, monkeypatch):
    calls = []

    def fail(*args):
        calls.append(args)
        if len(calls) == 4:
            raise RuntimeError("an accident")
        return annotate(*args)

    monkeypatch.setattr(module, "annotate", fail)
    with pytest.raises(RuntimeError, match="an accident"):
        run(inputs, tmp_path / "out", Bright())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["image 0.png", "image 1.png"]


def test_a_webcam_keeps_real_time(inputs, tmp_path, monkeypatch):
    """A camera of five frames a second, with a detector that takes 0.5 s a frame."""
    video, capture = str(inputs / "video.avi"), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: capture(video if name == 0 else name))
    clock = iter(np.arange(0, 100, 0.5))
    monkeypatch.setattr(module, "monotonic", lambda: float(next(clock)))
    predictions, detector = Predictions({3: "dark", 8: "bright"}), Bright()
    sources = find_sources(["0"])
    predict(detector, sources, tmp_path, predictions, score_threshold=0.5, batch_size=4)
    assert detector.batches == [1] * 7
    assert len(read_video(tmp_path / "webcam0.mp4")) == int(7 * 0.5 * 5) + 1
    assert len(predictions.images) == 7


def test_drawing_leaves_the_picture_alone():
    image = picture(30)
    found = [{"category_id": 8, "bbox": [30, 20, 20, 20], "score": 0.9}]
    drawn = annotate(image, found, {3: "dark", 8: "bright"})
    assert (image == picture(30)).all() and drawn.shape == image.shape
    assert (drawn[20, 35:45] != 255).any() and (drawn[30, 40] == 255).all()
    assert (annotate(image, [], {3: "dark"}) == image).all()


def test_the_file_is_json_without_detections(tmp_path):
    Predictions({1: "one"}).write(tmp_path / "detections.json")
    content = json.loads((tmp_path / "detections.json").read_text())
    assert content["annotations"] == [] and content["images"] == []
