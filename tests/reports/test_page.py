import random
import re

import pytest

from aa_detection.comparison.comparison import load_annotations
from aa_detection.data import DatasetError
from aa_detection.evaluation import coco_ap
from aa_detection.reports import read_run, report_page


def text_of(page):
    """What a reader sees, on one line."""
    page = re.sub(r"<(style|svg)\b.*?</\1>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


@pytest.fixture
def half(truths):
    """Detections that find every second object, and some that find nothing."""
    rng = random.Random(0)
    found = [{**each, "score": rng.random()} for each in truths[::2]]
    return found + [{**each, "category_id": 7} for each in truths[1::4]]


def test_one_run(make_run, val, truths):
    page = report_page([read_run(make_run("perfect"))], val)
    text = text_of(page)
    assert "On aa_sample_val: 12 images" in text
    assert re.search(r"perfect 100\.0 100\.0 100\.0", text)
    assert page.count("<img") == 8  # best and worst
    assert "0 missed, 0 false" in text
    for section in ("Losses", "Learning rate", "AP by class", "Precision and recall"):
        assert section in text
    for absent in ("Comparison", "Attention"):
        assert f"<h2>{absent}" not in page


def test_the_numbers_are_cocos(make_run, val, half):
    page = report_page([read_run(make_run("half", half))], val)
    expected = coco_ap(load_annotations(val.annotation_file), half)
    row = " ".join(f"{expected[name]:.1f}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"))
    assert f"half {row}" in text_of(page)


def test_two_runs_are_compared_with_the_first(make_run, val, half):
    runs = [read_run(make_run("plain", half)), read_run(make_run("aa", ATTENTION={"CONV": "aa"}))]
    text = text_of(report_page(runs, val))
    assert "aa better than plain by" in text
    assert "MODEL.ATTENTION.CONV aa" in text  # the key that differs; the plain one's is empty
    assert "DATASETS.TEST" not in text.split("key plain aa")[1].split("config.yaml")[0]


def test_the_page_needs_nothing_else_and_is_the_same_every_time(make_run, val, half):
    run = read_run(make_run("half", half))
    page = report_page([run], val)
    assert page == report_page([run], val)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:", "#")) for source in sources)


def test_names_are_text_and_no_markup(make_run, val):
    page = report_page([read_run(make_run("<script>alert(1)<"))], val)
    assert "<script" not in page


def test_a_run_that_found_nothing_has_a_page(make_run, val):
    text = text_of(report_page([read_run(make_run("nothing", []))], val))
    assert "nothing 0.0 0.0 0.0" in text


def test_detections_on_other_images_are_refused(make_run, val, truths):
    run = read_run(make_run("other", [{**truths[0], "image_id": 12345}]))
    with pytest.raises(DatasetError, match="12345"):
        report_page([run], val)


def test_in_a_browser(make_run, val, half, tmp_path, browser):
    """No error, nothing fetched, and every figure and picture is there to see."""
    path = tmp_path / "a report.html"
    runs = [read_run(make_run("plain", half)), read_run(make_run("aa"))]
    path.write_text(report_page(runs, val), encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 400, "height": 800})
    errors = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto(path.as_uri())
    broken = "[...document.images].filter((image) => !image.naturalWidth).length"
    assert page.evaluate(broken) == 0
    for figure in page.query_selector_all("figure"):
        box = figure.bounding_box()
        assert box["width"] > 100 and box["height"] > 50
    # a phone scrolls down, not sideways
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    context.close()
    assert errors == []


def test_one_evaluation_is_no_curve(make_run, val, half):
    once = [{"iteration": i, "total_loss": 1.0, "bbox/AP": 3.0} for i in (9,)]
    twice = [{"iteration": i, "total_loss": 1.0, "bbox/AP": 3.0} for i in (9, 19)]
    for name, rows, shown in (("once", once, False), ("twice", twice, True)):
        page = report_page([read_run(make_run(name, half, metrics=rows))], val)
        assert ("<h3>AP</h3>" in page) == shown
        assert ("<h2>Training</h2>" in page) == shown
