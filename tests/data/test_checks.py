import copy
import json

import numpy as np
import pytest
from PIL import Image

from aa_detection.data import (
    CocoDataset,
    CocoSummary,
    DatasetError,
    check_dataset,
    check_datasets,
    open_coco,
    read_coco_annotations,
    require_usable,
)
from aa_detection.evaluation import coco_ap

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
        Image.new("RGB", (80, 60)).save(root / name)
    path = tmp_path / "my set.json"
    path.write_text(json.dumps(VALID))
    return CocoDataset("mine", path, root)


@pytest.fixture
def findings(dataset):
    """``findings(change)``: of the dataset with its content changed."""

    def _findings(change, **how):
        content = copy.deepcopy(VALID)
        change(content)
        dataset.annotation_file.write_text(json.dumps(content))
        return check_dataset(dataset, **how).findings

    return _findings


def test_summary(dataset):
    report = check_dataset(dataset, num_classes=("MODEL.RETINANET.NUM_CLASSES", 3), train=True)
    assert report.summary == CocoSummary(
        images=3,
        unannotated=1,
        annotations=3,
        category_ids=(3, 7, 9),
        category_names=("cat", "dog", "emu"),
    )
    assert report.errors == []
    assert [(each.kind, each.ids) for each in report.warnings] == [
        ("annotations: box of size zero", (102,)),
        ("categories: without annotations", (9,)),
    ]
    assert report.seconds > 0 and report.image_seconds > 0


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


def every(change, *indices):
    return lambda content: [change(content["annotations"][i]) for i in indices or range(3)]


def boxes(*values):
    def change(content):
        content["annotations"] = [
            {**VALID["annotations"][0], "id": i, "bbox": box} for i, box in enumerate(values)
        ]

    return change


BOX = (
    "{path}: annotation 101 has bbox {box}, expected four finite numbers [x, y, width, height] "
    "with width and height at least 0"
)

ERRORS = [
    (
        lambda content: content["annotations"].insert(1, 5),
        "annotations: not an object",
        "{path}: annotations[1] is 5, expected an object",
        ("[1]",),
    ),
    (
        drop("images", 1, "file_name"),
        "images: file_name missing or of another type",
        "{path}: images[1] (id 11): no 'file_name', expected str",
        (11,),
    ),
    (
        put("images", 1, "width", None),
        "images: width missing or of another type",
        "{path}: images[1] (id 11): 'width' is None, expected int or float",
        (11,),
    ),
    (
        drop("categories", 2, "id"),
        "categories: id missing or of another type",
        "{path}: categories[2]: no 'id', expected int",
        ("'[2]'",),
    ),
    (
        put("annotations", 2, "id", "102"),
        "annotations: id missing or of another type",
        "{path}: annotations[2] (id '102'): 'id' is '102', expected int",
        ("'102'",),
    ),
    (
        put("annotations", 2, "image_id", True),
        "annotations: image_id missing or of another type",
        "{path}: annotations[2] (id 102): 'image_id' is True, expected int",
        (102,),
    ),
    (
        put("annotations", 0, "area", "big"),
        "annotations: area missing or of another type",
        "{path}: annotations[0] (id 100): 'area' is 'big', expected int or float",
        (100,),
    ),
    (
        put("annotations", 0, "iscrowd", 0.0),
        "annotations: iscrowd missing or of another type",
        "{path}: annotations[0] (id 100): 'iscrowd' is 0.0, expected int or bool",
        (100,),
    ),
    (
        lambda content: content["images"].append(content["images"][0]),
        "images: id used more than once",
        "{path}: images has the id 10 more than once",
        (10,),
    ),
    (
        lambda content: content["categories"].append(content["categories"][0]),
        "categories: id used more than once",
        "{path}: categories has the id 7 more than once",
        (7,),
    ),
    (
        put("annotations", 1, "id", 100),
        "annotations: id used more than once",
        "{path}: annotations has the id 100 more than once",
        (100,),
    ),
    (
        put("annotations", 1, "category_id", 4),
        "annotations: unknown category_id",
        "{path}: annotation 101 has category_id 4, expected one of 3, 7, 9",
        (101,),
    ),
    (
        put("annotations", 1, "image_id", 99),
        "annotations: unknown image_id",
        "{path}: annotation 101 has image_id 99, expected the id of one of the 3 images",
        (101,),
    ),
    *(
        (
            put("annotations", 1, "bbox", box),
            "annotations: not a box",
            BOX.replace("{box}", shown or str(box)),
            (101,),
        )
        for box, shown in (
            ([1, 2, 3], ""),
            ([1, 2, 3, "4"], ""),
            ([1, 2, 3, True], ""),
            ([1, 2, -3, 4], ""),
            ([1, 2, 3, float("inf")], ""),
            ([float("nan"), 2, 3, 4], ""),
            ([1, 2, 3, 10**400], f"[1, 2, 3, 1{'0' * 69}"),
            ([], ""),
        )
    ),
    (
        put("annotations", 1, "bbox", [80, 10, 5, 5]),
        "annotations: box outside its image",
        "{path}: annotation 101 has bbox [80, 10, 5, 5] of a 80x60 image: it lies outside",
        (101,),
    ),
    (
        put("annotations", 1, "area", float("nan")),
        "annotations: not an area",
        "{path}: annotation 101 has area nan, expected a finite number of at least 0",
        (101,),
    ),
    (
        put("annotations", 1, "ignore", 1),
        "annotations: marked to be ignored",
        "{path}: annotation 101 has 'ignore' set, which is no key of COCO's format: remove the "
        "annotation, or set 'iscrowd' instead",
        (101,),
    ),
    (
        boxes([0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]),
        "annotations: boxes in fractions",
        "{path}: every number of every bbox is at most 1, as in annotation 0: "
        "[0.1, 0.2, 0.3, 0.4]; expected pixels, not fractions of the image",
        (),
    ),
    (
        boxes(*([i, 2 * i, i + 2, 2 * i + 1] for i in range(10)), [41, 10, 60, 50]),
        "annotations: boxes as corners",
        "{path}: every bbox looks like [x1, y1, x2, y2], as in annotation 10: "
        "bbox [41, 10, 60, 50] of a 80x60 image; expected [x, y, width, height]",
        (),
    ),
    (
        put("images", 1, "height", 0),
        "images: not a size",
        "{path}: image 11 has width 80 and height 0, expected whole numbers of at least 1",
        (11,),
    ),
    (
        put("images", 1, "height", 60.5),
        "images: not a size",
        "{path}: image 11 has width 80 and height 60.5, expected whole numbers of at least 1",
        (11,),
    ),
    (
        put("images", 1, "file_name", "sub/B.jpg"),
        "images: file missing",
        "image file {root}/sub/B.jpg does not exist (image 11 of {path})",
        (11,),
    ),
    (
        put("images", 1, "file_name", "no such folder/b.jpg"),
        "images: file missing",
        "image file {root}/no such folder/b.jpg does not exist (image 11 of {path})",
        (11,),
    ),
    (
        put("images", 1, "file_name", "sub"),
        "images: file missing",
        "image file {root}/sub does not exist (image 11 of {path})",
        (11,),
    ),
    (
        put("images", 1, "width", 81),
        "images: unreadable or of another size",
        "image file {root}/sub/b.jpg (image 11) has 80x60 pixels, but its "
        "annotations say 81x60 ({path})",
        (11,),
    ),
    (
        every(lambda each: each.update(iscrowd=1)),
        "nothing to learn",
        "{path} has no annotation to train on, crowds aside",
        (),
    ),
    (
        lambda content: content.update(annotations=[]),
        "nothing to learn",
        "{path} has no annotation to train on",
        (),
    ),
    (
        lambda content: content.update(categories=[], annotations=[]),
        "no categories",
        "{path} declares no category",
        (),
    ),
    (
        lambda content: content.update(images=[], annotations=[]),
        "no images",
        "{path} lists no image",
        (),
    ),
    *(
        (
            put("categories", 1, "name", name),
            "categories: name is not one line of text",
            f"{{path}}: categories: name of id 3 is {name!r}, expected one line of text without "
            "control characters",
            (3,),
        )
        for name in ("a\nb", "cat\r", "\x1b[31m", "\ud800", "a\u2028b", "")
    ),
    (
        put("images", 1, "file_name", "sub/b\n.jpg"),
        "images: file_name is not one line of text",
        "{path}: images: file_name of id 11 is 'sub/b\\n.jpg', expected one line of text without "
        "control characters",
        (11,),
    ),
    *(
        (
            put("images", 1, "file_name", name),
            "images: outside the image folder",
            f"image file {name} (image 11) is not in the image folder {{root}}: expected a path "
            "below it ({path})",
            (11,),
        )
        for name in ("/etc/passwd", "../my set.json", "..", "sub/../../b.jpg", "//a.jpg")
    ),
]


@pytest.mark.parametrize(
    "name", ["sub/../a.jpg", "./a.jpg", "sub//b.jpg", "..a.jpg", "été 猫.jpg", "a\u00a0b.jpg"]
)
def test_names_in_the_folder_are_no_errors(dataset, findings, name):
    Image.new("RGB", (80, 60)).save(dataset.image_root / name)
    assert not [each for each in findings(put("images", 1, "file_name", name)) if each.is_error]


@pytest.mark.parametrize("change, kind, first, ids", ERRORS)
def test_errors(findings, dataset, change, kind, first, ids):
    found = {each.kind: each for each in findings(change, train=True) if each.is_error}
    first = first.replace("{path}", str(dataset.annotation_file))
    assert found[kind].first == first.replace("{root}", str(dataset.image_root))
    assert found[kind].ids == ids
    assert found[kind].count == 1
    assert "\n" not in str(found[kind])
    assert set(found) <= {kind, "nothing to learn"}


WARNINGS = [
    (
        every(lambda each: each.update(iscrowd=1), 0, 2),
        "annotations: crowd",
        "annotation 100 is a crowd: left out of training, and detections on it do not count",
        (100, 102),
    ),
    (
        every(lambda each: each.pop("area"), 1),
        "annotations: assumed values",
        "annotations without 'area' (taken as width * height)",
        (101,),
    ),
    (
        every(lambda each: (each.pop("area"), each.update(iscrowd=None)), 1, 2),
        "annotations: assumed values",
        "annotations without 'area' (taken as width * height) and 'iscrowd' (as 0)",
        (101, 102),
    ),
    (
        put("annotations", 0, "bbox", [75.5, 2, 5, 4]),
        "annotations: box over the border",
        "annotation 100 has bbox [75.5, 2, 5, 4] of a 80x60 image: clipped; the farthest of these "
        "reaches 0.5 pixels over the border",
        (100,),
    ),
    (
        boxes([-3, 0, 5, 5], [0, 0, 8, 8], [0, -7, 80, 70]),
        "annotations: box over the border",
        "annotation 0 has bbox [-3, 0, 5, 5] of a 80x60 image: clipped; the farthest of these "
        "reaches 7 pixels over the border",
        (0, 2),
    ),
]


@pytest.mark.parametrize("number, ap", [(0, 0), (1, 100)])
def test_the_id_that_pycocotools_takes_for_none(findings, dataset, number, ap):
    found = findings(put("annotations", 1, "id", number))
    warned = [each for each in found if each.kind == "annotations: id 0"]
    assert len(warned) == (number == 0) and not any(each.is_error for each in found)
    # what the warning says: the only cat is found, and counts as not found
    coco = open_coco(dataset)
    truth = coco.loadAnns(number)[0]
    detection = {key: truth[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
    assert coco_ap(coco, [detection])["AP-cat"] == pytest.approx(ap)


@pytest.mark.parametrize("change, kind, first, ids", WARNINGS)
def test_warnings(findings, dataset, change, kind, first, ids):
    found = findings(change, train=True)
    assert not any(each.is_error for each in found)
    (finding,) = [each for each in found if each.kind == kind]
    assert finding.first == f"{dataset.annotation_file}: {first}"
    assert (finding.ids, finding.count) == (ids, len(ids))


def test_an_image_without_a_size_does_not_hide_how_far_boxes_reach(findings):
    def change(content):
        content["annotations"][0]["bbox"] = [75.5, 2, 5, 4]
        content["images"][2]["width"] = 0

    (over,) = [each for each in findings(change) if each.kind == "annotations: box over the border"]
    assert over.first.endswith("reaches 0.5 pixels over the border")


def test_all_findings_are_counted_and_the_first_ids_named(findings, dataset):
    def change(content):
        content["annotations"] = [
            {**VALID["annotations"][0], "id": i, "category_id": 4, "bbox": [1, 1, -2, 3]}
            for i in range(20)
        ]
        content["images"][0]["file_name"] = "gone.jpg"

    errors = [each for each in findings(change) if each.is_error]
    assert [(each.kind, each.count, each.ids) for each in errors] == [
        ("annotations: unknown category_id", 20, (0, 1, 2, 3, 4)),
        ("annotations: not a box", 20, (0, 1, 2, 3, 4)),
        ("images: file missing", 1, (10,)),
    ]
    assert str(errors[0]) == (
        f"annotations: unknown category_id, 20 times (ids 0, 1, 2, 3, 4, …): "
        f"{dataset.annotation_file}: annotation 0 has category_id 4, expected one of 3, 7, 9"
    )
    with pytest.raises(DatasetError) as error:
        require_usable([check_dataset(dataset)])
    assert str(error.value) == (
        f"{dataset.annotation_file}: annotation 0 has category_id 4, expected one of 3, 7, 9 "
        "(and 40 more: tools/check_dataset.py lists all)"
    )


def test_boxes_that_are_none_for_different_reasons(findings):
    found = findings(boxes([1, 2, 3, "4"], [1, 2, -3, 4], [1, 2, 3, 4], [1, 2, 3, -4.5]))
    (error,) = [each for each in found if each.is_error]
    assert (error.kind, error.ids) == ("annotations: not a box", (0, 1, 3))


def test_an_unsound_record_is_not_found_twice(findings):
    # the image's id is known although its width is not
    found = findings(drop("images", 0, "width"))
    assert [each.kind for each in found if each.is_error] == [
        "images: width missing or of another type"
    ]


def test_corners_need_many_boxes_and_every_one(findings):
    few = findings(boxes([0, 0, 10, 10], [41, 10, 60, 50]))
    mixed = findings(boxes(*[[0, 0, 10, 10]] * 10, [41, 10, 60, 50], [41, 10, 20, 50]))
    for found in (few, mixed):
        assert not any(each.is_error for each in found)
        assert "annotations: box over the border" in [each.kind for each in found]
    # boxes that would be corners too, and that nothing speaks against
    within = findings(boxes(*([i, i, i + 20, i + 20] for i in range(20))))
    assert not any(each.is_error for each in within)


def test_corners_may_be_a_pixel_over_the_border(findings):
    """As they are where the last pixel is counted from 1."""
    corners = findings(boxes(*[[0, 0, 10, 10]] * 10, [41, 10, 81, 61]))
    assert "annotations: boxes as corners" in [each.kind for each in corners]


def test_boxes_in_images_of_one_pixel_are_no_fractions(findings):
    def change(content):
        for image in content["images"]:
            image.update(width=1, height=1)
        boxes([0, 0, 1, 1])(content)

    assert not any(each.is_error for each in findings(change, images="names"))


def test_minival_may_repeat_annotation_ids(dataset):
    content = copy.deepcopy(VALID)
    content["annotations"][1]["id"] = 100
    path = dataset.annotation_file.with_name("instances_minival2014.json")
    path.write_text(json.dumps(content))
    report = check_dataset(CocoDataset("minival", path, dataset.image_root))
    assert report.errors == []
    assert "annotations: id used more than once" in [each.kind for each in report.warnings]


@pytest.mark.parametrize("value", [None, [], {}])
def test_masks_are_asked_for_where_they_are_trained(findings, dataset, value):
    def change(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = [[1, 1, 5, 1, 5, 5]]
        content["annotations"][0]["segmentation"] = value
        content["annotations"][2].update(segmentation=None, iscrowd=1)

    assert not any(each.is_error for each in findings(change))
    (error,) = [each for each in findings(change, masks=True) if each.is_error]
    assert (error.kind, error.ids) == ("annotations: no segmentation", (100,))


def test_number_of_classes(dataset):
    report = check_dataset(dataset, num_classes=("MODEL.ROI_HEADS.NUM_CLASSES", 80))
    assert [each.first for each in report.errors] == [
        f"{dataset.annotation_file} declares 3 categories, but MODEL.ROI_HEADS.NUM_CLASSES is 80: "
        "set MODEL.ROI_HEADS.NUM_CLASSES to 3"
    ]


@pytest.mark.parametrize(
    "change, says",
    [
        (put("categories", 1, "name", "cow"), "is 'cow' in {other} and is 'cat' in {path}"),
        (
            lambda content: (content["categories"].pop(1), content["annotations"].pop(1)),
            "does not exist in {other} and is 'cat' in {path}",
        ),
    ],
)
def test_datasets_of_a_run_have_the_same_categories(dataset, tmp_path, change, says):
    content = copy.deepcopy(VALID)
    change(content)
    other = CocoDataset("other", tmp_path / "other.json", dataset.image_root)
    other.annotation_file.write_text(json.dumps(content))
    first, second = check_datasets([dataset], [other])
    assert first.errors == []
    says = says.format(other=other.annotation_file, path=dataset.annotation_file)
    assert [each.first for each in second.errors] == [
        f"category 3 {says}: the datasets of a run must declare the same categories"
    ]
    assert [len(each.errors) for each in check_datasets([dataset], [dataset])] == [0]


def test_validation_data_may_be_without_annotations(dataset):
    dataset.annotation_file.write_text(json.dumps({**VALID, "annotations": []}))
    (report,) = check_datasets([], [dataset])
    assert report.errors == []


@pytest.mark.parametrize("how", ["names", "headers", "pixels"])
def test_how_closely_images_are_looked_at(dataset, how):
    (dataset.image_root / "a.jpg").write_bytes(b"no image")
    broken = dataset.image_root / "sub/b.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(broken)
    broken.write_bytes(broken.read_bytes()[:2000])
    report = check_dataset(dataset, images=how)
    found = [each.ids for each in report.errors]
    assert found == {"names": [], "headers": [(10,)], "pixels": [(10, 11)]}[how]
    if found:
        assert report.errors[0].first == (
            f"image file {dataset.image_root}/a.jpg (image 10) cannot be read: it is no image of "
            f"a format that Pillow knows ({dataset.annotation_file})"
        )


@pytest.mark.parametrize(
    "text, message",
    [
        (b'{"images": [],\n "annotations": [}', "is not JSON: line 2, column 18: Expecting value"),
        (b"", "is not JSON: line 1, column 1: Expecting value"),
        (b'{"images": ["\xff\xff"]}', "is not JSON: byte 13 is not UTF-8"),
        (b"[" * 100_000, "is not in COCO's format: nested too deeply"),
        (b'{"a":' * 5_000_000, "is not in COCO's format: nested too deeply"),
        (b"[" * 1100 + b"]" * 1100, "is not in COCO's format: nested too deeply"),
        (
            b"[]",
            (
                "is not in COCO's format: expected an object with the lists images, categories, "
                "annotations, got a list"
            ),
        ),
        (
            b'{"images": [], "annotations": []}',
            "is not in COCO's format: expected a list under 'categories', got nothing",
        ),
        (
            b'{"images": {"a.jpg": 10}, "categories": [], "annotations": []}',
            "is not in COCO's format: expected a list under 'images', got dict",
        ),
    ],
)
def test_one_line_for_a_file_that_is_no_annotation_file(dataset, text, message):
    dataset.annotation_file.write_bytes(text)
    report = check_dataset(dataset)
    assert [each.first for each in report.errors] == [f"{dataset.annotation_file} {message}"]
    assert report.summary is None and report.warnings == []


def test_missing_annotation_file(dataset, tmp_path):
    dataset.annotation_file.unlink()
    (error,) = check_dataset(dataset).errors
    assert error.first == f"annotation file {dataset.annotation_file} does not exist"

    (error,) = check_dataset(CocoDataset("mine", tmp_path, dataset.image_root)).errors
    assert error.first == f"annotation file {tmp_path} cannot be read: Is a directory"


def test_missing_image_root(dataset, tmp_path):
    elsewhere = CocoDataset("mine", dataset.annotation_file, tmp_path / "images")
    (error,) = check_dataset(elsewhere).errors
    assert error.first == (
        f"image folder {tmp_path / 'images'} does not exist (images of {dataset.annotation_file})"
    )


def test_category_ids_in_a_message_stay_short(findings):
    def change(content):
        content["categories"] = [{"id": 2 * i, "name": str(i)} for i in range(1, 81)]

    (error,) = [each for each in findings(change) if each.is_error]
    assert error.first.endswith("18, 20, … (80 in all)")


def test_annotations_for_evaluation_are_completed(dataset):
    content = copy.deepcopy(VALID)
    for key in ("area", "iscrowd"):
        del content["annotations"][1][key]
    dataset.annotation_file.write_text(json.dumps(content))
    completed = {**VALID["annotations"][1], "area": 4800}
    assert read_coco_annotations(dataset.annotation_file)["annotations"][1] == completed
    coco = open_coco(dataset)
    assert coco.anns[101] == completed
    assert coco.anns[100] == VALID["annotations"][0]


def test_annotations_with_errors_are_not_read(dataset):
    content = copy.deepcopy(VALID)
    content["annotations"][1]["category_id"] = 5
    dataset.annotation_file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="annotation 101 has category_id 5, expected one of 3"):
        read_coco_annotations(dataset.annotation_file)
