import errno
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from aa_detection.data import CocoDataset, DatasetError, check_dataset
from aa_detection.data.synthetic import sample as sample_module
from aa_detection.data.synthetic.sample import SAMPLE, write_sample_dataset

SMALL = {"num_train": 4, "num_val": 2}


def contents(folder):
    """Digest of every file below a folder: pixels of images, bytes of the rest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(
            np.asarray(Image.open(path)).tobytes() if path.suffix == ".png" else path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def coco(sample):
    return COCO(sample / "annotations" / "val.json")


def test_passes_the_checks_of_a_users_dataset(sample):
    for split, images in (("train", 30), ("val", 80)):
        dataset = CocoDataset(split, sample / "annotations" / f"{split}.json", sample / split)
        report = check_dataset(dataset, train=True, images="pixels")
        assert report.findings == []
        summary = report.summary
        assert summary.images == images and summary.unannotated > 0
        assert summary.category_names == ("circle", "triangle", "square", "star", "crescent")


def test_splits_share_no_image(sample):
    digests = contents(sample)
    images = [digest for name, digest in digests.items() if name.endswith(".png")]
    assert len(set(images)) == len(images) == 110


def test_says_what_it_was_made_of(coco):
    assert coco.dataset["info"]["version"] == SAMPLE.version
    assert coco.dataset["info"]["seed"] == 0
    assert coco.dataset["licenses"]


def test_category_ids_have_gaps_and_every_class_is_common(coco):
    assert sorted(coco.cats) == [1, 2, 3, 5, 7]
    counts = Counter(annotation["category_id"] for annotation in coco.anns.values())
    assert set(counts) == set(coco.cats)
    assert min(counts.values()) >= 25


def test_every_coco_size_range_is_measured(coco):
    areas = np.array([annotation["area"] for annotation in coco.anns.values()])
    small, large = areas < 32**2, areas > 96**2
    assert small.sum() >= 50
    assert (~small & ~large).sum() >= 50
    assert large.sum() >= 8


def test_some_images_are_empty_and_the_others_differ_in_number_of_objects(coco):
    counts = Counter(len(coco.getAnnIds(image_id)) for image_id in coco.imgs)
    assert 0.02 <= counts.pop(0) / len(coco.imgs) <= 0.06
    assert min(counts) <= 2 and max(counts) in range(5, 9)
    assert max(counts.values()) <= 0.4 * len(coco.imgs)


def test_image_sizes_vary_and_are_those_of_the_files(sample, coco):
    sizes = []
    for image in coco.imgs.values():
        with Image.open(sample / "val" / image["file_name"]) as picture:
            assert picture.mode == "RGB"
            assert picture.size == (image["width"], image["height"])
        sizes.append((image["width"], image["height"]))
    assert all(144 <= side <= 208 for size in sizes for side in size)
    assert len(set(sizes)) > 60
    assert sum(width != height for width, height in sizes) > 70
    assert sum(width % 2 and height % 2 for width, height in sizes) > 5


def test_boxes_areas_and_polygons_agree(coco):
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    parts = 0
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        assert 0 <= x and x + width <= image["width"] and width >= 8
        assert 0 <= y and y + height <= image["height"] and height >= 8
        assert annotation["iscrowd"] == 0
        assert all(
            len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in annotation["segmentation"]
        )
        parts += len(annotation["segmentation"]) > 1
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (x, y) == (columns[0], rows[0])
        assert (x + width, y + height) == (columns[-1] + 1, rows[-1] + 1)
    assert parts  # an object cut in two by the one before it


def test_objects_hide_parts_of_each_other(coco):
    """Two masks never share a pixel; boxes that overlap on more than a corner show occlusion."""
    overlapping = 0
    for image_id in coco.imgs:
        boxes = [annotation["bbox"] for annotation in coco.imgToAnns[image_id]]
        for index, (x, y, w, h) in enumerate(boxes):
            for x2, y2, w2, h2 in boxes[:index]:
                shared_w = min(x + w, x2 + w2) - max(x, x2)
                shared_h = min(y + h, y2 + h2) - max(y, y2)
                overlapping += min(shared_w, shared_h) > 8
    assert overlapping >= 30


def test_same_seed_same_dataset_whatever_the_process(tmp_path):
    np.random.seed(5)
    here = write_sample_dataset(tmp_path / "here", **SMALL, seed=3)
    code = (
        "import sys\n"
        "from aa_detection.data.synthetic.sample import write_sample_dataset\n"
        "print(write_sample_dataset(sys.argv[1], num_train=4, num_val=2, seed=3))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "the other")],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    there = tmp_path / "the other" / "aa_sample"
    assert done.stdout == f"{there}\n"
    assert contents(there) == contents(here)
    assert len(contents(here)) == 8


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path, sample):
    few = contents(write_sample_dataset(tmp_path, **SMALL))
    many = contents(sample)
    images = [name for name in few if name.endswith(".png")]
    assert {name: few[name] for name in images} == {name: many[name] for name in images}


def test_default_root_is_the_dataset_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    assert write_sample_dataset(**SMALL) == tmp_path / "sets" / "aa_sample"


def test_readable_by_others(tmp_path):
    folder = write_sample_dataset(tmp_path, **SMALL)
    plain = tmp_path / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode


def test_complete_dataset_is_left_alone(tmp_path, monkeypatch):
    folder = write_sample_dataset(tmp_path, **SMALL)
    monkeypatch.setattr(sample_module, "draw_scene", None)  # drawing would fail
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_sample_dataset(tmp_path, **SMALL) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "aa_sample").mkdir()
    assert len(contents(write_sample_dataset(tmp_path, **SMALL))) == 8


def remove_an_image(folder):
    (folder / "train" / "000002.png").unlink()


def add_an_image(folder):
    (folder / "val" / "holiday.png").touch()


def break_the_annotations(folder):
    (folder / "annotations" / "val.json").write_text("[1, 2")


def raise_the_format_version(folder):
    path = folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["info"]["version"] = "next"
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change, options, part",
    [
        (remove_an_image, {}, "train"),
        (add_an_image, {}, "val"),
        (break_the_annotations, {}, "val"),
        (raise_the_format_version, {}, "train"),
        (None, {"seed": 1}, "train"),
        (None, {"num_val": 3}, "val"),
    ],
)
def test_anything_else_is_refused_and_not_touched(tmp_path, change, options, part):
    folder = write_sample_dataset(tmp_path, **SMALL)
    if change:
        change(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    options = {**SMALL, "seed": 0, **options}
    with pytest.raises(DatasetError) as error:
        write_sample_dataset(tmp_path, **options)
    assert str(error.value) == (
        f"{folder} is there but is not the sample dataset of format {SAMPLE.version}, "
        f"seed {options['seed']}, {options['num_train']} + {options['num_val']} images "
        f"(its {part} part differs): remove that folder or choose another dataset root"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_users_folder_or_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "folder" / "aa_sample").mkdir(parents=True)
    (tmp_path / "folder" / "aa_sample" / "thesis.txt").write_text("the only copy")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "aa_sample").write_text("a file")
    for root in ("folder", "file"):
        with pytest.raises(DatasetError, match="is there but is not the sample dataset"):
            write_sample_dataset(tmp_path / root, **SMALL)
    assert (tmp_path / "folder" / "aa_sample" / "thesis.txt").read_text() == "the only copy"
    assert (tmp_path / "file" / "aa_sample").read_text() == "a file"


def fail_after(images, error):
    """A stand-in for draw_scene that fails once it has drawn some images."""
    real, calls = sample_module.draw_scene, iter(range(images))

    def draw_scene(*args, **options):
        if next(calls, None) is None:
            raise error
        return real(*args, **options)

    return draw_scene


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sample_module, "draw_scene", fail_after(5, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_sample_dataset(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []
    assert len(contents(write_sample_dataset(tmp_path, **SMALL))) == 8


def test_full_disk_leaves_nothing_and_is_one_line(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(sample_module, "draw_scene", fail_after(5, full))
    with pytest.raises(DatasetError) as error:
        write_sample_dataset(tmp_path, **SMALL)
    assert str(error.value) == (
        f"cannot write the sample dataset to {tmp_path / 'aa_sample'}: No space left on device"
    )
    assert list(tmp_path.iterdir()) == []


def test_root_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="^cannot write the sample dataset to .*/root/aa_sample"):
        write_sample_dataset(tmp_path / "file" / "root", **SMALL)


def test_two_processes_at_once(tmp_path, monkeypatch):
    real = sample_module.draw_scene

    def the_other_is_faster(*args, **options):
        monkeypatch.setattr(sample_module, "draw_scene", real)
        write_sample_dataset(tmp_path, **SMALL)
        return real(*args, **options)

    monkeypatch.setattr(sample_module, "draw_scene", the_other_is_faster)
    folder = write_sample_dataset(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == [folder]
    assert len(contents(folder)) == 8


@pytest.mark.parametrize("options", [{"num_train": 0}, {"num_val": 0}, {"seed": -1}])
def test_numbers_out_of_range(tmp_path, options):
    with pytest.raises(DatasetError, match="num_train >= 1, num_val >= 1 and seed >= 0, got"):
        write_sample_dataset(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
