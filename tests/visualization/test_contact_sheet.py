import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from aa_detection.data import DatasetError
from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.visualization.contact_sheet import _choose_images, write_contact_sheet


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    folder = write_sample_dataset(tmp_path_factory.mktemp("sample set"), num_train=1, num_val=30)
    return {"annotation_file": folder / "annotations" / "val.json", "image_root": folder / "val"}


@pytest.fixture(scope="module")
def truths(val):
    """The ground truth as detections without a fault."""
    annotations = json.loads(val["annotation_file"].read_bytes())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    return [{**{key: each[key] for key in keys}, "score": 0.9} for each in annotations]


def draw(tmp_path, val, detections, **options):
    path = write_contact_sheet(tmp_path / "sheet.png", **val, detections=detections, **options)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def test_size_follows_the_grid(tmp_path, val, truths):
    one = draw(tmp_path, val, truths, max_images=1).shape
    assert draw(tmp_path, val, truths, max_images=3, columns=2).shape == (one[0] * 2, one[1] * 2, 3)
    assert draw(tmp_path, val, truths, max_images=2, columns=5).shape == (one[0], one[1] * 2, 3)
    # no more cells than images, but whole rows
    content = json.loads(val["annotation_file"].read_bytes())
    content |= {"images": content["images"][:5], "annotations": []}
    (tmp_path / "five.json").write_text(json.dumps(content))
    five = {**val, "annotation_file": tmp_path / "five.json"}
    every = draw(tmp_path, five, [], max_images=99, columns=2)
    assert every.shape == (one[0] * 3, one[1] * 2, 3)


def test_same_input_same_picture_from_list_or_file(tmp_path, val, truths):
    path = tmp_path / "coco_instances_results.json"
    path.write_text(json.dumps(truths))
    from_list = draw(tmp_path, val, truths, max_images=3)
    assert (from_list == draw(tmp_path, val, path, max_images=3)).all()
    assert (from_list == draw(tmp_path, val, str(path), max_images=3)).all()


def test_ground_truth_is_left_and_detections_are_right(tmp_path, val, truths):
    with_detections = draw(tmp_path, val, truths, max_images=1)
    without = draw(tmp_path, val, [], max_images=1)
    changed = (with_detections != without).any((0, 2))
    middle = len(changed) // 2
    assert not changed[:middle].any()
    assert changed[middle:].any()


def test_score_threshold_is_inclusive(tmp_path, val, truths):
    nothing = draw(tmp_path, val, [], max_images=2, score_threshold=0.9)
    assert (draw(tmp_path, val, truths, max_images=2, score_threshold=0.9) != nothing).any()
    above = [{**each, "score": 0.89} for each in truths]
    assert (draw(tmp_path, val, above, max_images=2, score_threshold=0.9) == nothing).all()


def test_box_is_drawn_where_the_object_is(tmp_path, val):
    """A detection of the whole image frames the picture inside its cell."""
    dataset = json.loads(val["annotation_file"].read_bytes())
    (image_id,) = _choose_images(
        [image["id"] for image in dataset["images"]], group(dataset["annotations"]), 1
    )
    image = dataset["images"][image_id - 1]
    box = [0, 0, image["width"], image["height"]]
    detection = {"image_id": image_id, "category_id": 1, "bbox": box, "score": 0.6}
    red = [214, 39, 40]  # of the first class; an outline shows on its own
    framed = draw(tmp_path, val, [detection], max_images=1) == red
    right = framed.all(2)[:, framed.shape[1] // 2 :]
    columns = np.flatnonzero(right.any(0))
    rows = np.flatnonzero(right[:, columns[-1]])  # the label is on the left side
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert max(height, width) == pytest.approx(300, abs=2)
    assert width / height == pytest.approx(image["width"] / image["height"], rel=0.02)


def test_class_names_replace_those_of_the_file(tmp_path, val, truths):
    usual = draw(tmp_path, val, truths, max_images=2)
    renamed = draw(tmp_path, val, truths, max_images=2, class_names={1: "disk", 5: "asterisk"})
    assert (usual != renamed).any()


def test_boxes_beyond_the_image_are_drawn_inside_the_cell(tmp_path, val, truths):
    x, y, _, _ = truths[0]["bbox"]
    wild = [{**each, "bbox": [x - 500, y - 500, 2000, 2000]} for each in truths]
    sheet = draw(tmp_path, val, wild, max_images=4)
    plain = draw(tmp_path, val, [], max_images=4)
    gutter = (plain == 255).all(2)
    assert gutter.any() and (sheet[gutter] == 255).mean() > 0.99


def group(annotations):
    grouped = {}
    for annotation in annotations:
        grouped.setdefault(annotation["image_id"], []).append(annotation)
    return grouped


def test_choice_covers_the_classes_the_dataset_and_an_empty_image(val):
    dataset = json.loads(val["annotation_file"].read_bytes())
    truths = group(dataset["annotations"])
    ids = [image["id"] for image in dataset["images"]]
    chosen = _choose_images(ids, truths, 8)
    assert len(set(chosen)) == 8 and chosen == sorted(chosen)
    assert sum(image_id not in truths for image_id in chosen) == 1
    seen = Counter(each["category_id"] for image_id in chosen for each in truths.get(image_id, ()))
    assert set(seen) == {1, 2, 3, 5, 7}
    assert chosen[0] <= 10 and chosen[-1] >= 21


def test_choice_reaches_a_rare_class():
    truths = {image_id: [{"category_id": 1}] for image_id in range(1, 101)}
    truths[37] = [{"category_id": 2}]
    assert 37 in _choose_images(list(range(1, 101)), truths, 2)


def test_choice_without_annotations():
    assert len(_choose_images([1, 2, 3, 4], {}, 3)) == 3


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 999}, "a detection has image_id 999, which .* has not: expected detections"),
        ({"category_id": 4}, "a detection has category_id 4, which .* has not: expected"),
    ],
)
def test_detections_on_another_dataset_are_refused(tmp_path, val, truths, change, message):
    with pytest.raises(DatasetError, match=message):
        draw(tmp_path, val, [*truths, {**truths[0], **change}])


def test_files_that_cannot_be_drawn(tmp_path, val, truths):
    with pytest.raises(DatasetError, match="missing.json cannot be read: No such file"):
        draw(tmp_path, val, tmp_path / "missing.json")
    with pytest.raises(DatasetError, match=r"val\.json: expected COCO's list of results, each"):
        draw(tmp_path, val, val["annotation_file"])
    with pytest.raises(DatasetError, match=r"image .*\.png cannot be read: No such file"):
        draw(tmp_path, {**val, "image_root": tmp_path}, truths)
    with pytest.raises(ValueError, match="max_images and columns must be at least 1, got 0 and 3"):
        draw(tmp_path, val, truths, max_images=0)
