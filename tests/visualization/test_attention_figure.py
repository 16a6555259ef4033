"""The still picture: a cell for every layer and head, its heat in the right place."""

import numpy as np
import pytest
import torch

from aa_detection.visualization.attention_figure import attention_figure
from aa_detection.visualization.attention_maps import LayerAttention, PictureAttention


def attention(heads=2, layers=("backbone.res3.0.conv1", "backbone.res4.1.conv1")):
    """On a grid of 5 x 7; head h looks at row 1, column 2 + 3h from everywhere."""
    k = torch.zeros(heads, 5, 7, 1)
    for head in range(heads):
        k[head, 1, 2 + 3 * head] = 100
    made = [
        LayerAttention(name, (50, 70), torch.ones_like(k), k, None, None, (0.5, 0.5), (10.0, 10.0))
        for name in layers
    ]
    return PictureAttention((50, 70), made)


def draw(attention, points):
    image = np.full((50, 70, 3), 60, np.uint8)
    return [np.asarray(figure) for figure in attention_figure(image, attention, points)]


def heat_places(figure):
    """Centres of the bright yellow spots, as (y, x)."""
    yellow = (figure[:, :, 0] > 200) & (figure[:, :, 2] < 190) & (figure[:, :, 1] > 150)
    rows, columns = np.nonzero(yellow)
    places = {}
    for y, x in zip(rows, columns):
        key = next((k for k in places if abs(k[0] - y) + abs(k[1] - x) < 40), (y, x))
        places.setdefault(key, []).append((y, x))
    return sorted(tuple(np.mean(p, axis=0)) for p in places.values())


def test_a_cell_for_every_layer_and_head():
    (figure,) = draw(attention(), [(5, 45)])
    places = heat_places(figure)
    assert len(places) == 4
    cell = 112 / 70  # pixels of the figure for one of the picture
    (y0, x0), (y1, x1) = places[0], places[1]
    assert y0 == pytest.approx(y1, abs=1)
    # the second head looks three grid points further right, in a cell one cell further right
    assert x1 - x0 == pytest.approx(112 + 4 + 30 * cell, abs=2)
    assert places[2][0] - y0 == pytest.approx(80 + 4, abs=1)
    one, other = draw(attention(heads=1), [(5, 45)])[0], draw(attention(), [(5, 45)])[0]
    assert other.shape[1] - one.shape[1] == 112 + 4


def test_a_figure_for_every_point_with_its_mark():
    first, second = draw(attention(), [(5, 45), (60, 30)])
    assert first.shape == second.shape
    mark = (first == (57, 213, 255)).all(2)
    moved = (second == (57, 213, 255)).all(2)
    assert mark.any() and moved.any() and not (mark & moved).any()


def test_a_point_outside_the_picture():
    with pytest.raises(ValueError, match="outside the picture"):
        draw(attention(), [(71, 1)])
