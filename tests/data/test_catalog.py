from pathlib import Path

import pytest

from aa_detection.data import (
    CocoDataset,
    DatasetError,
    dataset_root,
    get_coco_dataset,
    register_coco_dataset,
)


@pytest.fixture(autouse=True)
def fresh_catalog(monkeypatch):
    monkeypatch.setattr("aa_detection.data.catalog._registered", {})
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data/sets")


def test_dataset_root_is_detectron2s(monkeypatch):
    assert dataset_root() == Path("/data/sets")
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/sets")
    assert dataset_root() == Path.home() / "sets"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("DETECTRON2_DATASETS")
        else:
            monkeypatch.setenv("DETECTRON2_DATASETS", unset)
        assert dataset_root() == Path("datasets")


@pytest.mark.parametrize(
    "name, annotation_file, image_root",
    [
        ("coco_2014_train", "coco/annotations/instances_train2014.json", "coco/train2014"),
        ("coco_2014_val", "coco/annotations/instances_val2014.json", "coco/val2014"),
        ("coco_2014_minival", "coco/annotations/instances_minival2014.json", "coco/val2014"),
        (
            "coco_2014_valminusminival",
            "coco/annotations/instances_valminusminival2014.json",
            "coco/val2014",
        ),
        ("coco_2017_train", "coco/annotations/instances_train2017.json", "coco/train2017"),
        ("coco_2017_val", "coco/annotations/instances_val2017.json", "coco/val2017"),
        ("aa_sample_train", "aa_sample/annotations/train.json", "aa_sample/train"),
        ("aa_sample_val", "aa_sample/annotations/val.json", "aa_sample/val"),
    ],
)
def test_builtin_names(name, annotation_file, image_root):
    root = Path("/data/sets")
    assert get_coco_dataset(name) == CocoDataset(name, root / annotation_file, root / image_root)


def test_builtin_names_follow_the_root_as_it_is_now(monkeypatch):
    get_coco_dataset("aa_sample_val")
    monkeypatch.setenv("DETECTRON2_DATASETS", "/elsewhere")
    assert get_coco_dataset("aa_sample_val").image_root == Path("/elsewhere/aa_sample/val")


def test_registered_name_is_found():
    dataset = register_coco_dataset("birds", "birds/all.json", "~/birds")
    assert dataset == CocoDataset("birds", Path("birds/all.json"), Path.home() / "birds")
    assert get_coco_dataset("birds") == dataset


def test_same_paths_may_be_registered_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    first = register_coco_dataset("birds", "birds.json", "birds")
    assert register_coco_dataset("birds", tmp_path / "birds.json", "./birds/") == first


@pytest.mark.parametrize("name", ["birds", "coco_2017_val"])
def test_other_paths_under_a_known_name_are_refused(name):
    register_coco_dataset("birds", "birds.json", "birds")
    before = get_coco_dataset(name)
    with pytest.raises(DatasetError) as error:
        register_coco_dataset(name, "other.json", "birds")
    assert str(error.value) == (
        f"dataset {name!r} is already {before.annotation_file} with images in "
        f"{before.image_root}: register other.json under another name"
    )
    assert get_coco_dataset(name) == before


def test_unknown_name_gets_the_nearest_and_all_known_ones():
    register_coco_dataset("birds", "birds.json", "birds")
    with pytest.raises(DatasetError) as error:
        get_coco_dataset("coco_2017_vall")
    assert str(error.value) == (
        "unknown dataset 'coco_2017_vall', did you mean 'coco_2017_val'? known: "
        "aa_context_train, aa_context_val, aa_sample_train, aa_sample_val, birds, "
        "coco_2014_minival, coco_2014_train, coco_2014_val, coco_2014_valminusminival, "
        "coco_2017_train, coco_2017_val"
    )
    with pytest.raises(
        DatasetError,
        match="^unknown dataset 'zzz', known: aa_context_train, aa_context_val, aa_sample_train, ",
    ):
        get_coco_dataset("zzz")
