"""The page in a browser: its attention is Python's, and it can be moved by every means."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision

from aa_detection import AttentionSpec, augment
from aa_detection.evaluation import Detections
from aa_detection.visualization.attention_maps import (
    LayerAttention,
    PictureAttention,
    record_attention,
)
from aa_detection.visualization.attention_page import attention_page

POINT = (70.0, 20.0)
TITLE = "a </script><b>name</b>"


@pytest.fixture(scope="module")
def attention():
    """Of a picture of 150 x 180 pixels, whose network sees it at half the size."""
    torch.manual_seed(0)
    network = augment(torchvision.models.resnet18(), AttentionSpec(max_image_size=64, num_heads=4))
    with torch.no_grad(), record_attention(network.eval()) as record:
        network(torch.randn(1, 3, 75, 90))
    return record.of_picture(picture_size=(150, 180))


@pytest.fixture(scope="module")
def path(attention, tmp_path_factory):
    image = np.random.default_rng(0).integers(0, 255, (150, 180, 3), np.uint8)
    found = Detections.of(
        torch.tensor([[20.0, 30.0, 80.0, 90.0], [100.0, 5.0, 178.0, 60.0]]),
        torch.tensor([0.9, 0.75]),
        torch.tensor([1, 0]),
    )
    path = tmp_path_factory.mktemp("a folder") / "a page.html"
    html = attention_page(image, attention, found, ["one", "<i>two"], [POINT], TITLE)
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture
def open_page(browser, path):
    """``open_page(**context)``: the page without a network; fails on any error it reports."""
    errors, contexts = [], []

    def _open(path=path, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.on("requestfailed", lambda request: errors.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function("cells.length && document.getElementById('readout').textContent")
        return page

    yield _open
    for context in contexts:
        context.close()
    assert errors == []


def readout(page):
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return page.inner_text("#readout")


def move(page, x, y):
    """The mouse to a point of the picture."""
    box = page.locator("#marks").bounding_box()
    page.mouse.move(box["x"] + x / 180 * box["width"], box["y"] + y / 150 * box["height"])


def rounded(layer):
    """What the page holds of a layer."""
    names = ("q", "k", "rel_h", "rel_w")
    return dataclasses.replace(layer, **{n: getattr(layer, n).half().float() for n in names})


def test_the_browser_computes_what_python_does(open_page, attention):
    page = open_page()
    points = [(0.0, 0.0), POINT, (33.3, 149.0), (180.0, 150.0)]
    for i, layer in enumerate(attention.layers):
        got = page.evaluate(
            """([i, points]) => points.map(([x, y]) => [...Array(data.layers[i].heads).keys()].map(
                (head) => Array.from(attentionAt(
                    data.layers[i], head, ...gridPoint(data.layers[i], x, y)))))""",
            [i, points],
        )
        got = torch.tensor(got).permute(1, 0, 2).unflatten(-1, layer.size)
        torch.testing.assert_close(got, rounded(layer).maps(points), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(got, layer.maps(points), rtol=0.02, atol=1e-4)


def test_opens_with_the_first_point_and_says_what_it_shows(open_page, attention):
    page = open_page()
    assert page.inner_text("h1") == TITLE
    assert "layer4.1.conv1, head 1 · query (70, 20) · grid 3 × 3" in readout(page)
    labels = page.locator("#points button").all_inner_texts()
    assert labels == ["point 1", "<i>two 0.90", "one 0.75"]
    assert page.locator("#marks text").all_text_contents() == ["<i>two 0.90", "one 0.75"]
    assert page.locator("#matrix td button").count() == 6 * 4
    largest = float(attention.layers[-1].maps([POINT])[0].max())
    assert float(page.inner_text("#most").removesuffix(" %")) == pytest.approx(
        100 * largest, rel=0.01
    )


def test_the_mouse_moves_the_point_and_a_click_holds_it(open_page):
    page = open_page()
    move(page, 45, 100)
    assert "query (45, 100)" in readout(page)
    page.mouse.down()
    page.mouse.up()
    move(page, 120, 50)
    assert "query (45, 100)" in readout(page) and "held" in readout(page)
    page.mouse.down()
    page.mouse.up()
    move(page, 121, 51)
    assert "query (121, 51)" in readout(page) and "held" not in readout(page)


def test_the_keyboard_moves_the_point_by_the_grid_and_chooses(open_page, attention):
    page = open_page()
    page.get_by_role("button", name="layer2.0.conv1, head 3").press("Enter")
    assert "layer2.0.conv1, head 3 · query (70, 20) · grid 5 × 6" in readout(page)
    assert page.locator("[aria-pressed=true]").count() == 1
    page.focus("#marks")
    layer = attention.layers[0]
    for _ in range(9):  # beyond the border nothing is left to step on
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    x, y = layer.origin[1] + 5 * layer.step[1], layer.origin[0] + 2 * layer.step[0]
    assert f"query ({x:.0f}, {y:.0f})" in readout(page)
    page.get_by_role("button", name="one 0.75").press("Enter")
    assert "query (139, 33)" in readout(page)


def test_a_finger_moves_the_point(open_page):
    page = open_page(has_touch=True, viewport={"width": 390, "height": 800})
    box = page.locator("#marks").bounding_box()
    assert box["width"] > 300
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    assert "query (90, 50)" in readout(page)


def test_detections_are_an_offer(open_page):
    page = open_page()
    assert page.locator("#marks rect").count() == 4  # each with an outline
    page.uncheck("#boxes")
    readout(page)
    assert page.locator("#marks rect").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_on_light_and_dark(open_page, scheme):
    page = open_page(color_scheme=scheme)
    paper, ink = page.evaluate(
        """() => ["backgroundColor", "color"].map((name) =>
            getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3)
                .reduce((sum, n) => sum + Number(n) / 3, 0))"""
    )
    assert abs(paper - ink) > 180
    assert (paper > ink) == (scheme == "light")


def peaked(row, column):
    """One layer on a grid of 5 x 7 that looks at one grid point from everywhere."""
    k = torch.zeros(1, 5, 7, 1)
    k[0, row, column] = 100
    layer = LayerAttention(
        "layer", (50, 70), torch.ones_like(k), k, None, None, origin=(0.5, 0.5), step=(10.0, 10.0)
    )
    return PictureAttention((50, 70), [layer])


@pytest.mark.parametrize("row, column", [(0, 0), (2, 3), (4, 6)])
def test_heat_lies_over_its_grid_point(open_page, tmp_path, row, column):
    image = np.zeros((50, 70, 3), np.uint8)
    nothing = Detections.of(torch.empty(0, 4), torch.empty(0), torch.empty(0))
    path = tmp_path / "peak.html"
    path.write_text(attention_page(image, peaked(row, column), nothing, [], [], "peak"))
    page = open_page(path)
    x, y = page.evaluate(
        """() => {
          const canvas = document.getElementById("overlay"), {width, height} = canvas;
          const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          let sum = 0, x = 0, y = 0;
          for (let i = 0; i < pixels.length; i += 4) {
            const p = i / 4, red = pixels[i];
            sum += red; x += red * (p % width + 0.5); y += red * (Math.floor(p / width) + 0.5);
          }
          return [x / sum * WIDTH / width, y / sum * HEIGHT / height];
        }"""
    )
    # at a border half of the heat is cut off, and its repetition at the right and bottom shows
    assert x == pytest.approx(0.5 + 10 * column, abs=0.6 if column == 3 else 5)
    assert y == pytest.approx(0.5 + 10 * row, abs=0.6 if row == 2 else 5)
