"""Attention maps of both engines' detectors."""

import json
import math
import re

import numpy as np
import pytest
import torch

from aa_detection.data.images import read_image
from aa_detection.inference import look


def test_looks_into_a_detector(engine, trained, tiny_config, sample_dataset):
    detector = engine.load_detector(tiny_config(engine, "OUTPUT_DIR", str(trained(engine)[0])))
    content = json.loads((sample_dataset / "annotations/val.json").read_text())
    path = sample_dataset / "val" / content["images"][0]["file_name"]
    image = np.asarray(read_image(path))[:, :, ::-1]
    detections, attention = look(detector, image)
    assert np.array_equal(detections.boxes, detector([image])[0].boxes) and len(detections)

    assert attention.picture_size == image.shape[:2]
    input_size = detector.input_size(*image.shape[:2])
    names = [layer.name for layer in attention.layers]
    assert all(re.search(r"\.(res|layer)\d\.\d\.conv1$", name) for name in names), names
    for layer, stride in zip(attention.layers, (16, 16, 16, 16, 32, 32), strict=True):
        # the padding to a multiple of 32 is left out
        assert layer.size == tuple(math.ceil(n / stride) for n in input_size)
        assert layer.step == tuple(
            pytest.approx(stride * n / m) for n, m in zip(image.shape[:2], input_size)
        )
    height, width = image.shape[:2]
    for maps, layer in zip(attention.maps([(0, 0), (width, height)]), attention.layers):
        assert maps.shape == (8, 2, *layer.size)
        torch.testing.assert_close(maps.sum((2, 3)), torch.ones(8, 2))


def test_a_plain_detector(engine, run, tiny_config, tmp_path):
    plain = ["MODEL.ATTENTION.CONV", ""]
    run(engine, tmp_path, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", *plain)
    detector = engine.load_detector(tiny_config(engine, "OUTPUT_DIR", str(tmp_path), *plain))
    with pytest.raises(ValueError, match="has no augmented convolution"):
        look(detector, np.zeros((64, 64, 3), np.uint8))
