"""Pascal VOC and YOLO folders into COCO's format, and into training."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aa_detection.data import CocoDataset, check_dataset

pytest.importorskip("supervision", reason="supervision is not installed")

ROOT = Path(__file__).resolve().parents[2]

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture(scope="module")
def convert(load_tool):
    return load_tool("convert_dataset").main


@pytest.fixture
def folder(tmp_path):
    """Three images of 64x48, no annotations yet."""
    folder = tmp_path / "my data"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    for name in ("a", "b", "c"):
        Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg")
    return folder


@pytest.fixture
def voc(folder):
    def write(name, *objects):
        text = "".join(OBJECT.format(*each) for each in objects)
        (folder / f"labels/{name}.xml").write_text(f"<annotation>{text}</annotation>")

    write("a", ("dog", 0, 1, 1, 64, 48), ("cat", 1, 11, 6, 20, 15))
    write("b", ("emu", 0, 2, 3, 2, 3))
    return ["voc", *words(folder)]


@pytest.fixture
def yolo(folder):
    (folder / "labels/a.txt").write_text("1 0.5 0.5 1 1\n0 0.25 0.25 0.125 0.5\n")
    (folder / "labels/b.txt").write_text("")
    (folder / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    return ["yolo", *words(folder), "--names", str(folder / "data.yaml")]


def words(folder):
    return [
        "--images", str(folder / "images"), "--annotations", str(folder / "labels"),
        "--output", str(folder / "out.json"),
    ]  # fmt: skip


def written(folder):
    content = json.loads((folder / "out.json").read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    files = {each["id"]: each["file_name"] for each in content["images"]}
    assert {(each["width"], each["height"]) for each in content["images"]} == {(64, 48)}
    boxes = [
        (files[each["image_id"]], names[each["category_id"]], each["bbox"], each["iscrowd"])
        for each in content["annotations"]
    ]
    return list(names.values()), sorted(files.values()), sorted(boxes)


def test_voc(convert, voc, folder, capsys):
    assert convert(voc) == 0
    assert written(folder) == (
        ["cat", "dog", "emu"],
        ["a.jpg", "b.jpg", "c.jpg"],
        [
            # 1-based inclusive corners: 11 ... 20 are ten pixels, from the tenth on
            ("a.jpg", "cat", [10, 5, 10, 10], 0),
            ("a.jpg", "dog", [0, 0, 64, 48], 0),
            ("b.jpg", "emu", [1, 2, 1, 1], 0),
        ],
    )
    assert "3 images, 3 annotations, 3 categories: cat, dog, emu" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["images", "labels", "out.json"]


def test_voc_image_set_and_classes(convert, voc, folder):
    (folder / "val.txt").write_text("b  1\nc -1\n")
    more = ["--image-set", str(folder / "val.txt"), "--classes", "emu", "dog", "cat"]
    assert convert([*voc, *more]) == 0
    names, files, boxes = written(folder)
    assert (names, files) == (["emu", "dog", "cat"], ["b.jpg", "c.jpg"])
    assert boxes == [("b.jpg", "emu", [1, 2, 1, 1], 0)]


def test_no_licence_and_no_time_is_made_up(convert, voc, folder):
    assert convert(voc) == 0
    content = json.loads((folder / "out.json").read_text())
    assert content["licenses"] == []
    assert {key for image in content["images"] for key in image} == {
        "id", "file_name", "height", "width",
    }  # fmt: skip


def test_yolo(convert, yolo, folder):
    assert convert(yolo) == 0
    assert written(folder) == (
        ["cat", "dog"],
        ["a.jpg", "b.jpg", "c.jpg"],
        [("a.jpg", "cat", [12, 0, 8, 24], 0), ("a.jpg", "dog", [0, 0, 64, 48], 0)],
    )


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_what_is_converted_trains(convert, kind, folder, load_tool, request, monkeypatch):
    assert convert(request.getfixturevalue(kind)) == 0
    report = check_dataset(
        CocoDataset("x", folder / "out.json", folder / "images"), train=True, images="pixels"
    )
    assert report.errors == []
    monkeypatch.setattr("aa_detection.data.catalog._registered", {})
    data = []
    for split in ("train", "val"):
        data += [f"--{split}-json", str(folder / "out.json")]
        data += [f"--{split}-images", str(folder / "images")]
    count = len(report.summary.category_ids)
    status = load_tool("train_net").main(
        ["--config-file", str(ROOT / "configs/sample/aa_retinanet_R18.yaml"),
         "--engine", "torchvision", *data, "OUTPUT_DIR", str(folder / "run"),
         "MODEL.RETINANET.NUM_CLASSES", str(count), "SOLVER.MAX_ITER", "1",
         "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0",
         "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
    )  # fmt: skip
    assert status == 0
    assert (folder / "run/inference/coco_instances_results.json").exists()


BROKEN = {
    "yolo class": (
        "yolo", "labels/a.txt", "7 0.5 0.5 1 1\n",
        "{folder}/images/a.jpg' contains class_id 7, outside the valid range [0, 1] for 2 classes.",
    ),
    "yolo line": ("yolo", "labels/a.txt", "0 0.5 0.5\n", "{folder}/labels/a.txt"),
    "yolo nan": ("yolo", "labels/a.txt", "0 nan 0.5 1 1\n", "{folder}/labels/a.txt"),
    "yolo names missing": ("yolo", "data.yaml", "nc: 2\n", "{folder}/data.yaml"),
    "yolo names tag": (
        "yolo", "data.yaml", "names: !!python/object/apply:os.getcwd []\n", "{folder}/data.yaml",
    ),
    "voc syntax": ("voc", "labels/b.xml", "<annotation><object>", "{folder}/labels/b.xml: "),
    "voc no box": (
        "voc", "labels/b.xml", "<annotation><object><name>a</name></object></annotation>",
        "{folder}/labels/b.xml: Missing bndbox in Pascal VOC annotation.",
    ),
    "voc entities": (
        "voc", "labels/b.xml", '<!DOCTYPE a [<!ENTITY e "x">]><annotation>&e;</annotation>',
        "{folder}/labels/b.xml: ",
    ),
    "voc outside": (
        "voc", "labels/b.xml",
        f"<annotation>{OBJECT.format('emu', 0, 100, 100, 120, 120)}</annotation>",
        "not converted: {folder}/out.json: annotation 3 has bbox",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind, name, text, line", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named_and_nothing_written(
    convert, kind, name, text, line, folder, request, capsys
):
    command = request.getfixturevalue(kind)
    (folder / name).write_text(text)
    (folder / "out.json").write_text("as it was")
    assert convert(command) == 2
    (err,) = capsys.readouterr().err.splitlines()
    assert err.startswith("convert_dataset.py: ") and line.format(folder=folder) in err
    assert (folder / "out.json").read_text() == "as it was"
    assert not list(folder.glob("*.unfinished"))
