import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from aa_detection.data.synthetic.scene import SHAPES, draw_scene, outline


def decode(polygons, shape):
    runs = coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *shape)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


@pytest.mark.parametrize(
    "rows, parts",
    [
        (["....", ".#..", "...."], 1),
        (["####", "####", "####"], 1),
        ([".##.", "####", ".#.."], 1),
        (["#...", ".#..", "..#."], 1),  # connected by corners only
        (["##.#", "##.#", "...."], 2),
        (["#.#.", "###.", "#.##"], 1),
    ],
)
def test_outline_decodes_to_the_same_pixels(rows, parts):
    pixels = np.array([[mark == "#" for mark in row] for row in rows])
    polygons = outline(pixels)
    assert len(polygons) == parts
    assert (decode(polygons, pixels.shape) == pixels).all()


def test_outline_has_corners_only():
    pixels = np.zeros((20, 30), bool)
    pixels[3:9, 5:25] = True
    (polygon,) = outline(pixels)
    assert sorted(map(tuple, polygon.tolist())) == [(5, 3), (5, 9), (25, 3), (25, 9)]


def test_outline_of_random_pixels_fills_the_holes_only():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels = rng.random((12, 17)) < 0.4
        filled = ndimage.binary_fill_holes(pixels)
        assert (filled != pixels).any()
        assert (decode(outline(pixels), pixels.shape) == filled).all()


def test_same_generator_state_same_scene():
    (pixels, objects), (again, objects_again) = (
        draw_scene(np.random.default_rng(7)) for _ in range(2)
    )
    assert (pixels == again).all()
    assert [each.shape for each in objects] == [each.shape for each in objects_again]
    other, _ = draw_scene(np.random.default_rng(8))
    assert other.shape != pixels.shape or (other != pixels).any()


def test_empty_scene_has_a_texture_and_no_objects():
    pixels, objects = draw_scene(np.random.default_rng(0), empty=True)
    assert objects == []
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    assert pixels.astype(float).std() > 5


def test_objects_do_not_share_pixels_and_have_no_holes():
    for seed in range(15):
        pixels, objects = draw_scene(np.random.default_rng(seed))
        assert 1 <= len(objects) <= 8
        assert sum(each.pixels.astype(int) for each in objects).max() == 1
        for each in objects:
            assert each.shape in SHAPES
            assert each.pixels.shape == pixels.shape[:2]
            assert (decode(outline(each.pixels), each.pixels.shape) == each.pixels).all()


def test_an_object_stands_out_from_what_surrounds_it():
    distances = []
    for seed in range(15):
        pixels, objects = draw_scene(np.random.default_rng(seed))
        background = ~np.any([each.pixels for each in objects], axis=0)
        for each in objects:
            inside, outside = pixels[each.pixels].mean(0), pixels[background].mean(0)
            distances.append(np.linalg.norm(inside - outside))
    assert min(distances) > 40
    assert np.median(distances) > 90
