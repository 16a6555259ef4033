import dataclasses
import json
import math

import numpy as np
import pytest

from aa_detection.comparison import PUBLISHED, compare, precision_recall
from aa_detection.comparison.intervals import interval
from aa_detection.comparison.results import read_results
from aa_detection.data import DatasetError, index_annotations
from aa_detection.studies.simulation import simulate_annotations, simulate_detections


@pytest.fixture(scope="module")
def content():
    return simulate_annotations(60, 3, seed=0)


@pytest.fixture(scope="module")
def annotations(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("annotations of") / "val.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def detect(content):
    return lambda seed, skill=0.0: simulate_detections(content, seed, skill=skill, per_image=12)


def test_a_better_detector(annotations, detect):
    result = compare(
        annotations, [detect(1, 0.8)], [detect(2)], names=("AA", "plain"), resamples=100
    )
    ap = result.metrics["AP"]
    assert list(result.metrics) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert list(result.per_class) == ["class1", "class2", "class3"]
    assert ap.difference == pytest.approx(ap.a - ap.b) and 0 < ap.low < ap.difference < ap.high
    assert result.verdict.startswith(
        f"AA better than plain by {ap.difference:.1f} AP, 95 % CI {ap.low:.1f}..{ap.high:.1f}."
    )
    assert "not the noise of training" in result.verdict
    # the other way round, everything but the verdict's subject changes its sign
    swapped = compare(
        annotations, [detect(2)], [detect(1, 0.8)], names=("plain", "AA"), resamples=100
    )
    assert swapped.verdict == result.verdict
    mirrored = swapped.metrics["AP"]
    assert [-mirrored.high, -mirrored.low] == pytest.approx([ap.low, ap.high])


def test_equal_detectors(annotations, detect):
    result = compare(annotations, [detect(1)], [detect(2)], resamples=100)
    ap = result.metrics["AP"]
    assert ap.low < 0 < ap.high and not ap.shown
    assert result.verdict.startswith("No difference shown between A and B")
    assert f"a difference of {ap.detectable:.1f} AP would have been shown" in result.verdict
    assert ap.detectable > max(-ap.low, ap.high) - abs(ap.difference)


def test_runs_against_themselves_differ_in_nothing(annotations, detect):
    result = compare(annotations, [detect(1)], [detect(1)], resamples=100)
    for row in [*result.metrics.values(), *result.per_class.values()]:
        assert row.difference == row.low == row.high == 0 and not row.shown


def test_several_runs(annotations, detect):
    a, b = [detect(seed, 0.5) for seed in range(3)], [detect(seed) for seed in range(3, 5)]
    result = compare(annotations, a, b, resamples=100)
    ap = result.metrics["AP"]
    assert result.covers_training and "training" not in result.verdict
    assert (len(ap.runs_a), len(ap.runs_b)) == (3, 2)
    assert ap.a == pytest.approx(np.mean(ap.runs_a)) and ap.low < ap.difference < ap.high
    listed = ", ".join(f"{value:.2f}" for value in ap.runs_a)
    spread = f"standard deviation {np.std(ap.runs_a, ddof=1):.2f}"
    assert f"AP of the runs of A: {listed} ({spread})." in result.to_markdown()
    expected = np.mean([precision_recall(annotations, run, iou=0.5)[1] for run in a], axis=0)
    assert result.curves[0].a == pytest.approx(expected)
    # two runs of one arm alone tell nothing of the other's noise
    assert not compare(annotations, a, b[:1], resamples=100).covers_training


def test_the_seed_of_the_resamples(annotations, detect):
    first, again, other = (
        compare(annotations, [detect(1)], [detect(2)], resamples=100, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first.metrics["AP"].low != other.metrics["AP"].low
    assert first.metrics["AP"].difference == other.metrics["AP"].difference


def test_nothing_found(annotations, detect):
    result = compare(annotations, [detect(1)], [[]], resamples=100)
    ap = result.metrics["AP"]
    assert ap.b == 0 and ap.difference == ap.a and ap.low > 0


def test_what_is_not_annotated(content, detect, tmp_path):
    path = tmp_path / "small.json"
    kept = [a for a in content["annotations"] if a["category_id"] != 2 and a["area"] < 32**2]
    path.write_text(json.dumps({**content, "annotations": kept}))
    result = compare(path, [detect(1)], [detect(2)], resamples=100)
    assert math.isnan(result.per_class["class2"].difference)
    assert math.isnan(result.metrics["APl"].low) and not math.isnan(result.metrics["APs"].low)
    written = json.loads(result.to_json())
    assert written["per_class"]["class2"]["a"] is None
    assert "| class2 | – |" in result.to_markdown()

    path.write_text(json.dumps({**content, "annotations": []}))
    result = compare(path, [detect(1)], [detect(2)], resamples=100)
    assert result.verdict.startswith("No verdict")
    assert json.loads(result.to_json())["metrics"]["AP"]["difference"] is None


def test_one_image(content, detect, tmp_path):
    path = tmp_path / "one.json"
    image = content["annotations"][0]["image_id"]
    one = {
        **content,
        "images": [each for each in content["images"] if each["id"] == image],
        "annotations": [each for each in content["annotations"] if each["image_id"] == image],
    }
    path.write_text(json.dumps(one))
    found = [[d for d in detect(seed) if d["image_id"] == image] for seed in (1, 2)]
    ap = compare(path, found[:1], found[1:], resamples=100).metrics["AP"]
    assert ap.low == ap.difference == ap.high  # there is nothing else to draw


def test_json_and_markdown(annotations, detect):
    result = compare(
        annotations,
        [detect(1, 0.8)],
        [detect(2)],
        resamples=100,
        published=PUBLISHED["aa_retinanet_R50"],
    )
    written = json.loads(result.to_json())
    ap = result.metrics["AP"]
    assert written["metrics"]["AP"]["low"] == ap.low
    assert written["verdict"] == result.verdict
    assert len(written["curves"][0]["a"]) == len(written["curves"][0]["recall"]) == 101
    page = result.to_markdown()
    assert f"| AP | {ap.a:.2f} | {ap.b:.2f} | {ap.difference:+.2f} | {ap.low:+.2f}" in page
    assert "Published: +1.40 AP, outside the interval" in page and result.verdict in page


@pytest.mark.parametrize(("low", "high"), [(2.0, 3.0), (-1.0, 1.0), (1.0, 2.0)])
def test_a_published_difference_is_inside_the_interval_or_not(annotations, detect, low, high):
    published = PUBLISHED["aa_retinanet_R50"]
    result = compare(annotations, [detect(1)], [detect(2)], resamples=100, published=published)
    between = dataclasses.replace(result.metrics["AP"], low=low, high=high)
    result = dataclasses.replace(result, metrics={**result.metrics, "AP": between})
    where = "inside" if (low, high) == (1.0, 2.0) else "outside"
    assert f"Published: +1.40 AP, {where} the interval (" in result.to_markdown()


def test_precision_recall(annotations, detect):
    result = compare(annotations, [detect(1)], [detect(2)], resamples=100)
    recall, precision = precision_recall(annotations, detect(1), iou=0.75)
    assert tuple(precision) == result.curves[1].a and tuple(recall) == result.curves[1].recall
    assert precision.mean() == pytest.approx(result.metrics["AP75"].a)
    with pytest.raises(ValueError, match=r"0\.6"):
        precision_recall(annotations, detect(1), iou=0.61)


# ---- intervals -----------------------------------------------------------------------------------


def draws(rng, runs, training, images=1.0, count=400):
    """An arm: a value whose images are drawn again, and whose runs differ."""
    of_images = images * rng.normal(size=count + 1)
    of_images[0] = 0  # the images as they are
    return 10 + of_images + training * rng.normal(size=(runs, 1))


def test_without_training_noise_it_is_the_images():
    rng = np.random.default_rng(0)
    images = rng.normal(size=1001)
    images[0] = 0
    a, b = np.stack([images + 1] * 4), np.zeros((4, 1001))
    several, one = interval(a, b), interval(a[:1], b[:1])
    assert [several.low, several.high] == pytest.approx([1 - 1.96, 1 + 1.96], abs=0.2)
    assert [one.low, one.high] == pytest.approx([several.low, several.high], abs=0.2)
    assert several.detectable == pytest.approx(1.96 + 0.84, abs=0.2)


def test_without_image_noise_it_is_welch():
    rng = np.random.default_rng(1)
    a, b = 1 + rng.normal(size=(4, 1)), 2 * rng.normal(size=(6, 1))
    result = interval(np.tile(a, 50), np.tile(b, 50))
    from scipy.stats import ttest_ind

    expected = ttest_ind(a[:, 0], b[:, 0], equal_var=False).confidence_interval(0.95)
    assert [result.low, result.high] == pytest.approx([expected.low, expected.high])


def test_what_images_do_to_single_runs_is_counted_once():
    """Runs that lie as far apart as other images alone would set them: training adds nothing."""
    from scipy.stats import t

    rng = np.random.default_rng(4)
    of_all, of_one = rng.normal(size=(2, 400))
    apart = of_one.std(ddof=1)
    runs = [np.r_[10 + sign * apart, 10 + of_all + sign * of_one] for sign in (1, -1)]
    result = interval(np.stack(runs), np.zeros((2, 401)))
    variance = of_all.var(ddof=1)
    # of the two runs' mean: apart ** 2, with one degree of freedom
    reach = t.ppf(0.975, variance**2 / apart**4) * variance**0.5
    assert [result.low, result.high] == pytest.approx([10 - reach, 10 + reach])


def test_fewer_runs_are_less_sure():
    rng = np.random.default_rng(2)
    widths = {2: [], 5: []}
    for _ in range(50):
        for runs in widths:
            result = interval(draws(rng, runs, 1.0, 0.1), draws(rng, runs, 1.0, 0.1))
            widths[runs].append(result.high - result.low)
    assert np.median(widths[2]) > 2 * np.median(widths[5])


# ---- detections that are none --------------------------------------------------------------------

GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2.5, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("detections", "parts"),
    [
        ({"images": []}, ["list of detections", "dict"]),
        ("text", ["list of detections", "str"]),
        ([GOOD, 3], ["[1]", "int"]),
        ([{"image_id": 1}], ["[0]", "'category_id'"]),
        ([{**GOOD, "image_id": 99}], ["image_id 99", "annotations"]),
        ([{**GOOD, "image_id": "1"}], ["image_id '1'"]),
        ([{**GOOD, "image_id": [1]}], ["image_id [1]"]),
        ([{**GOOD, "category_id": 0}], ["category_id 0"]),
        ([{**GOOD, "bbox": [1, 2, 3]}], ["bbox [1, 2, 3]"]),
        ([{**GOOD, "bbox": [1, 2, -3, 4]}], ["-3"]),
        ([{**GOOD, "bbox": None}], ["bbox None"]),
        ([{**GOOD, "bbox": [1, 2, 3, "4"]}], ["'4'"]),
        ([{**GOOD, "score": math.nan}], ["score nan"]),
        ([{**GOOD, "score": None}], ["score None"]),
        ([{k: v for k, v in GOOD.items() if k != "score"}], ["no 'score'"]),
        ([{**GOOD, "bbox": [1, 2, math.inf, 4]}], ["inf"]),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, list) else None,
)
def test_detections_that_are_none(content, detections, parts, tmp_path):
    path = tmp_path / "my results.json"
    path.write_text(json.dumps(detections))
    with pytest.raises(DatasetError) as error:
        read_results(index_annotations(content), path)
    assert all(part in str(error.value) for part in ["my results.json", *parts]), error.value
    assert "\n" not in str(error.value)


def test_good_detections_are_read(content):
    results = read_results(index_annotations(content), [GOOD, {**GOOD, "image_id": 3, "score": 1}])
    assert results.images.tolist() == [0, 2] and results.classes.tolist() == [0, 0]
    assert results.boxes[0].tolist() == [1, 2.5, 3, 4] and results.scores.tolist() == [0.5, 1]


@pytest.fixture
def predictions(content, tmp_path):
    """``predictions(**lists)``: read a file as tools/predict.py writes it, with other lists."""
    names = [image["file_name"] for image in content["images"][:3]]
    dataset = {
        # its own numbers, in its own order, of paths as they were given
        "images": [
            {"id": i, "file_name": f"my data/val/{name}"} for i, name in enumerate(names[::-1], 1)
        ],
        "videos": [],
        "categories": content["categories"],
        "annotations": [{**GOOD, "id": 1, "iscrowd": 0}, {**GOOD, "image_id": 3, "score": 1}],
    }

    def read(**lists):
        path = tmp_path / "detections.json"
        path.write_text(json.dumps({**dataset, **lists}))
        return read_results(index_annotations(content), path)

    return read


def test_predictions_are_known_by_the_names_of_their_images(predictions):
    results = predictions()
    assert results.images.tolist() == [2, 0] and results.scores.tolist() == [0.5, 1]
    assert len(predictions(images=[], annotations=[]).images) == 0


@pytest.mark.parametrize(
    ("lists", "line"),
    [
        ({"categories": [{"id": 1, "name": "class 1"}]}, "its categories are not the annotations'"),
        ({"images": [{"id": 1, "file_name": "val/x.png"}]}, "expected a list of detections, or a"),
        ({"annotations": [3]}, "expected a list of detections, or a dataset"),
        (
            {"images": [{"id": i, "file_name": "a/x.png"} for i in (1, 3)]},
            "the annotations have no image a/x.png",
        ),
    ],
    ids=str,
)
def test_predictions_on_another_dataset(predictions, lists, line):
    with pytest.raises(DatasetError, match=f"detections.json: {line}") as error:
        predictions(**lists)
    assert "\n" not in str(error.value)


def test_predictions_on_two_copies_of_an_image(predictions, content):
    name = content["images"][0]["file_name"]
    images = [{"id": i, "file_name": f"{i}/{name}"} for i in (1, 3)]
    with pytest.raises(DatasetError, match="several of its images are one image"):
        predictions(images=images)
