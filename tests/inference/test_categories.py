"""Where the names of the classes come from."""

import json

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import ConfigError
from aa_detection.data import DatasetError
from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.inference.categories import find_categories


def config(count, test=(), train=()):
    return CfgNode(
        {
            "MODEL": {"META_ARCHITECTURE": "RetinaNet", "RETINANET": {"NUM_CLASSES": count}},
            "DATASETS": {"TEST": test, "TRAIN": train},
        }
    )


def test_of_the_dataset(tmp_path, monkeypatch):
    write_sample_dataset(tmp_path, num_train=1, num_val=1)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    categories = find_categories(config(5, ("custom_val", "aa_sample_val")))
    content = json.loads((tmp_path / "aa_sample/annotations/val.json").read_text())
    assert categories == {c["id"]: c["name"] for c in content["categories"]}
    assert list(categories) == sorted(categories) and len(categories) == 5
    # a dataset of another number of classes is not the one it was trained on
    assert find_categories(config(2, ("aa_sample_val",))) == {1: "class 1", 2: "class 2"}


def test_cocos_own_without_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    categories = find_categories(config(80, ("coco_2017_val",)))
    assert len(categories) == 80
    assert (categories[1], categories[90], list(categories)[79]) == ("person", "toothbrush", 90)
    assert 12 not in categories
    assert find_categories(config(3, (), ("coco_2017_train",)))[1] == "class 1"


def test_two_stage_detectors_and_no_dataset():
    cfg = CfgNode(
        {
            "MODEL": {"META_ARCHITECTURE": "GeneralizedRCNN", "ROI_HEADS": {"NUM_CLASSES": 1}},
            "DATASETS": {"TEST": (), "TRAIN": ()},
        }
    )
    assert find_categories(cfg) == {1: "class 1"}


def test_of_a_file(tmp_path):
    names = tmp_path / "my names.txt"
    names.write_text("\ufeffcat\n\n big dog \n", encoding="utf-8")
    assert find_categories(config(2), str(names)) == {1: "cat", 2: "big dog"}
    annotations = tmp_path / "annotations.json"
    categories = [{"id": 9, "name": "b"}, {"id": 4, "name": "a"}]
    annotations.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert list(find_categories(config(2), str(annotations)).items()) == [(4, "a"), (9, "b")]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"one\ntwo", "a.txt: 2 names, and the detector has 3 classes"),
        ("b.txt", None, "b.txt: No such file or directory"),
        ("c.txt", b"\xff\xfe\x00", "c.txt: not a text file in UTF-8"),
        ("d.json", b"{", "d.json: expected COCO's annotations"),
        ("e.json", b"[]", "e.json: expected COCO's annotations"),
        ("f.json", None, "f.json cannot be read: No such file"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ConfigError, DatasetError), match=message):
        find_categories(config(3), str(path))
