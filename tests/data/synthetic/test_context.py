from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from aa_detection.data import CocoDataset, check_dataset
from aa_detection.data.synthetic import context as module
from aa_detection.data.synthetic.context import (
    BOARD_WIDTH,
    DISTANCE,
    draw_strip,
    write_context_dataset,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return write_context_dataset(root, num_train=4, num_val=150)


@pytest.fixture(scope="module")
def coco(folder):
    return COCO(folder / "annotations" / "val.json")


def test_passes_the_checks_of_a_users_dataset(folder):
    for split, images in (("train", 4), ("val", 150)):
        dataset = CocoDataset(split, folder / "annotations" / f"{split}.json", folder / split)
        report = check_dataset(dataset, train=True, images="pixels")
        assert report.errors == []
        assert report.summary.images == images
        assert len(report.summary.category_names) == 4


def test_same_seed_same_dataset(folder, tmp_path):
    again = write_context_dataset(tmp_path / "again", num_train=2, num_val=3)
    other = write_context_dataset(tmp_path / "other", num_train=2, num_val=3, seed=1)
    for number in range(1, 4):
        name = f"val/{number:06d}.png"
        pixels = np.asarray(Image.open(again / name))
        assert (pixels == np.asarray(Image.open(folder / name))).all()
        assert (pixels != np.asarray(Image.open(other / name))).any()


def test_classes_are_balanced(coco):
    counts = Counter(annotation["category_id"] for annotation in coco.anns.values())
    share = np.array([counts[category] for category in sorted(coco.cats)]) / len(coco.anns)
    assert share == pytest.approx(0.25, abs=0.05)
    assert 3 < len(coco.anns) / len(coco.imgs) < 4


def test_the_board_and_the_tone_name_a_disc(folder, coco):
    for image in coco.imgs.values():
        pixels = np.asarray(Image.open(folder / "val" / image["file_name"])).astype(float)
        red, green, _ = pixels[:, :BOARD_WIDTH].mean((0, 1))
        board = "red" if red > green else "cyan"
        background = np.median(pixels[:, BOARD_WIDTH:])
        for annotation in coco.imgToAnns[image["id"]]:
            disc = pixels[coco.annToMask(annotation) > 0].mean()
            tone = "light" if disc > background else "dark"
            assert coco.cats[annotation["category_id"]]["name"] == f"{tone} disc, {board} board"


def test_the_tones_of_a_strip_do_not_tell_its_board(coco):
    agree = []
    for annotation in coco.anns.values():
        name = coco.cats[annotation["category_id"]]["name"]
        agree.append(("dark" in name) == ("red" in name))
    assert np.mean(agree) == pytest.approx(0.5, abs=0.08)


def test_nothing_but_the_board_tells_its_colour(monkeypatch):
    """The same random numbers and the other board: other classes, and no other pixel changed."""
    first, discs = draw_strip(np.random.default_rng(3), 0)
    monkeypatch.setattr(module, "_HUES", {"cyan": 180, "red": 0})
    second, exchanged = draw_strip(np.random.default_rng(3), 0)
    assert (first[:, :BOARD_WIDTH] != second[:, :BOARD_WIDTH]).mean() > 0.5
    assert (first[:, BOARD_WIDTH:] == second[:, BOARD_WIDTH:]).all()
    other = {"red": "cyan", "cyan": "red"}
    for (name, visible), (name_2, visible_2) in zip(discs, exchanged, strict=True):
        tone, _, colour, _ = name.split()
        assert name_2 == f"{tone} disc, {other[colour]} board"
        assert (visible == visible_2).all()


def test_discs_are_far_from_the_board_and_apart(coco):
    for annotations in coco.imgToAnns.values():
        masks = [coco.annToMask(annotation) for annotation in annotations]
        assert sum(masks).max() == 1
        for annotation in annotations:
            assert annotation["bbox"][0] - BOARD_WIDTH >= DISTANCE
            assert 8 <= min(annotation["bbox"][2:]) and max(annotation["bbox"][2:]) <= 14
