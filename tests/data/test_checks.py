import copy
import json
import time

import pytest

from aa_detection.data import CocoDataset, CocoSummary, DatasetError, check_coco_dataset

VALID = {
    "images": [
        {"id": 10, "file_name": "a.jpg", "height": 60, "width": 80},
        {"id": 11, "file_name": "sub/b.jpg", "height": 60, "width": 80},
        {"id": 12, "file_name": "sub/c.jpg", "height": 60, "width": 80},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 9, "name": "emu"}],
    "annotations": [
        {"id": i, "image_id": m, "category_id": c, "bbox": b, "area": 12.0, "iscrowd": 0}
        for i, m, c, b in [
            (100, 10, 7, [1, 2, 3.0, 4]),
            (101, 10, 3, [0, 0, 80, 60]),
            (102, 12, 7, [5.5, 5.5, 1.5, 0]),
        ]
    ],
}


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "my images"
    (root / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg", "sub/c.jpg"):
        (root / name).touch()
    path = tmp_path / "my set.json"
    path.write_text(json.dumps(VALID))
    return CocoDataset("mine", path, root)


def test_summary(dataset):
    assert check_coco_dataset(dataset, num_classes=3) == CocoSummary(
        images=3,
        annotations=3,
        empty_images=1,
        empty_boxes=1,
        category_ids=(3, 7, 9),
        category_names=("cat", "dog", "emu"),
        category_counts=(1, 2, 0),
    )


def test_images_without_annotations_are_a_dataset(dataset):
    dataset.annotation_file.write_text(json.dumps({**VALID, "annotations": []}))
    summary = check_coco_dataset(dataset)
    assert (summary.annotations, summary.empty_images) == (0, 3)


def put(key, index, field, value):
    def change(content):
        content[key][index][field] = value

    return change


def drop(key, index=None, field=None):
    def change(content):
        if index is None:
            del content[key]
        else:
            del content[key][index][field]

    return change


BOX = (
    "{path}: annotation 101 has bbox {box}, expected four finite numbers [x, y, width, height] "
    "with width and height at least 0"
)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            drop("categories"),
            "{path} is not in COCO's format: expected a list under 'categories', got nothing",
        ),
        (
            lambda content: content.update(images={"a.jpg": 10}),
            "{path} is not in COCO's format: expected a list under 'images', got dict",
        ),
        (
            lambda content: content["annotations"].insert(1, 5),
            "{path}: annotations[1] is a int, expected an object",
        ),
        (
            drop("images", 1, "file_name"),
            "{path}: images[1] (id 11): no 'file_name', expected str",
        ),
        (
            put("images", 1, "width", None),
            "{path}: images[1] (id 11): 'width' is None, expected int or float",
        ),
        (
            drop("categories", 2, "id"),
            "{path}: categories[2]: no 'id', expected int",
        ),
        (
            put("annotations", 2, "id", "102"),
            "{path}: annotations[2] (id '102'): 'id' is '102', expected int",
        ),
        (
            put("annotations", 2, "image_id", True),
            "{path}: annotations[2] (id 102): 'image_id' is True, expected int",
        ),
        (
            drop("annotations", 0, "area"),
            "{path}: annotations[0] (id 100): no 'area', expected int or float",
        ),
        (put("images", 2, "id", 10), "{path}: images has the id 10 more than once"),
        (put("categories", 1, "id", 7), "{path}: categories has the id 7 more than once"),
        (put("annotations", 1, "id", 100), "{path}: annotations has the id 100 more than once"),
        (
            put("annotations", 1, "category_id", 4),
            "{path}: annotation 101 has category_id 4, expected one of 3, 7, 9",
        ),
        (
            put("annotations", 1, "image_id", 99),
            "{path}: annotation 101 has image_id 99, expected the id of one of the 3 images",
        ),
        (put("annotations", 1, "bbox", [1, 2, 3]), BOX.replace("{box}", "[1, 2, 3]")),
        (put("annotations", 1, "bbox", [1, 2, 3, "4"]), BOX.replace("{box}", "[1, 2, 3, '4']")),
        (put("annotations", 1, "bbox", [1, 2, -3, 4]), BOX.replace("{box}", "[1, 2, -3, 4]")),
        (
            put("annotations", 1, "bbox", [1, 2, 3, float("inf")]),
            BOX.replace("{box}", "[1, 2, 3, inf]"),
        ),
        (
            put("annotations", 1, "bbox", [float("nan"), 2, 3, 4]),
            BOX.replace("{box}", "[nan, 2, 3, 4]"),
        ),
        (
            put("images", 1, "file_name", "sub/B.jpg"),
            "image file {root}/sub/B.jpg does not exist (image 11 of {path})",
        ),
        (
            put("images", 1, "file_name", "no such folder/b.jpg"),
            "image file {root}/no such folder/b.jpg does not exist (image 11 of {path})",
        ),
    ],
)
def test_one_line_for_each_fault_in_the_content(dataset, change, message):
    content = copy.deepcopy(VALID)
    change(content)
    dataset.annotation_file.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as error:
        check_coco_dataset(dataset)
    expected = message.replace("{path}", str(dataset.annotation_file))
    assert str(error.value) == expected.replace("{root}", str(dataset.image_root))


@pytest.mark.parametrize(
    "text, message",
    [
        (b'{"images": [],\n "annotations": [}', "is not JSON: line 2, column 18: Expecting value"),
        (b"", "is not JSON: line 1, column 1: Expecting value"),
        (b'{"images": ["\xff\xff"]}', "is not JSON: byte 13 is not UTF-8"),
        (
            b"[]",
            (
                "is not in COCO's format: expected an object with the lists images, categories, "
                "annotations, got a list"
            ),
        ),
    ],
)
def test_one_line_for_a_file_that_is_no_annotation_file(dataset, text, message):
    dataset.annotation_file.write_bytes(text)
    with pytest.raises(DatasetError) as error:
        check_coco_dataset(dataset)
    assert str(error.value) == f"{dataset.annotation_file} {message}"


def test_missing_annotation_file(dataset, tmp_path):
    dataset.annotation_file.unlink()
    with pytest.raises(DatasetError) as error:
        check_coco_dataset(dataset)
    assert str(error.value) == f"annotation file {dataset.annotation_file} does not exist"

    with pytest.raises(DatasetError) as error:
        check_coco_dataset(CocoDataset("mine", tmp_path, dataset.image_root))
    assert str(error.value) == f"annotation file {tmp_path} cannot be read: Is a directory"


def test_missing_image_root(dataset, tmp_path):
    with pytest.raises(DatasetError) as error:
        check_coco_dataset(CocoDataset("mine", dataset.annotation_file, tmp_path / "images"))
    assert str(error.value) == (
        f"image folder {tmp_path / 'images'} does not exist (images of {dataset.annotation_file})"
    )


def test_number_of_classes(dataset):
    with pytest.raises(DatasetError) as error:
        check_coco_dataset(dataset, num_classes=80)
    assert str(error.value) == (
        f"{dataset.annotation_file} declares 3 categories, but the model is set up for 80 classes: "
        "set the number of classes to 3"
    )


def test_category_ids_in_a_message_stay_short(dataset):
    content = copy.deepcopy(VALID)
    content["categories"] = [{"id": 2 * i, "name": str(i)} for i in range(1, 81)]
    dataset.annotation_file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"one of 2, 4, 6, .*, 20, … \(80 in all\)$"):
        check_coco_dataset(dataset)


def test_large_file_is_checked_in_little_more_than_the_time_to_read_it(dataset):
    content = copy.deepcopy(VALID)
    content["annotations"] = [
        {**VALID["annotations"][i % 2], "id": i, "segmentation": [[1.5] * 20]}
        for i in range(100_000)
    ]
    dataset.annotation_file.write_text(json.dumps(content))
    start = time.process_time()
    json.loads(dataset.annotation_file.read_bytes())
    reading = time.process_time() - start
    start = time.process_time()
    assert check_coco_dataset(dataset).annotations == 100_000
    assert time.process_time() - start < 1 + 3 * reading
