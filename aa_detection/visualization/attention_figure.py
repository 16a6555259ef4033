"""Attention maps as a still figure, one row per layer and one column per head, as in the paper."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .attention_maps import PictureAttention
from .boxes import font
from .colours import heat_colours

_SIDE = 112  # pixels of a cell's longer side
_GAP = 4
_LEFT, _TOP = 104, 46  # margins for the layers' names, and for the title and the heads' numbers
_TITLE_SIZE, _LABEL_SIZE = 16, 13
_PAPER, _INK, _SOFT = (255, 255, 255), (27, 31, 38), (89, 97, 110)
_MARK = (57, 213, 255)
_LEAST, _MOST = 0.27, 0.9  # opacity of the heat over the image, at zero and at the largest weight


def attention_figure(
    image: np.ndarray, attention: PictureAttention, points: Sequence[tuple[float, float]]
) -> Iterator[Image.Image]:
    """Yield a figure for each query point, which is marked in every cell.

    The colours of each map range from 0 to its own largest weight.

    Args:
        image: ``(H, W, 3)`` uint8, BGR; the image that `attention` belongs to.
        points: ``(x, y)`` in pixels of the image.

    Raises:
        ValueError: a point is outside the image.
    """
    maps = attention.maps(points)
    height, width = attention.picture_size
    scale = _SIDE / max(height, width)
    columns, rows = (max(1, round(scale * n)) for n in (width, height))
    picture = Image.fromarray(image[:, :, ::-1]).resize((columns, rows), Image.Resampling.BOX)
    # grey, so that the only colours are those of the heat
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[:, :, None]
    colours = heat_colours().astype(np.float32)
    heads = max(layer.q.shape[0] for layer in attention.layers)
    size = (
        _LEFT + heads * (columns + _GAP),
        _TOP + len(attention.layers) * (max(rows, 2 * _LABEL_SIZE + 6) + _GAP),
    )
    for i, (x, y) in enumerate(points):
        figure = Image.new("RGB", size, _PAPER)
        draw = ImageDraw.Draw(figure)
        title = f"attention from ({x:.0f}, {y:.0f})"
        draw.text((_GAP, 12), title, _INK, font(_TITLE_SIZE), anchor="lm")
        for head in range(heads):
            place = (_LEFT + head * (columns + _GAP) + columns / 2, _TOP - 10)
            draw.text(place, f"head {head + 1}", _SOFT, font(_LABEL_SIZE), anchor="mm")
        for row, (layer, layer_maps) in enumerate(zip(attention.layers, maps)):
            top = _TOP + row * (size[1] - _TOP) // len(attention.layers)
            draw.text((_GAP, top + 2), layer.label, _INK, font(_LABEL_SIZE))
            grid = f"{layer.size[0]} x {layer.size[1]}"
            draw.text((_GAP, top + _LABEL_SIZE + 6), grid, _SOFT, font(_LABEL_SIZE))
            heat = layer.spread(layer_maps[:, i], (rows, columns)).cpu().numpy()
            heat /= layer_maps[:, i].amax((1, 2)).cpu().numpy()[:, None, None]
            share = (_LEAST + (_MOST - _LEAST) * np.sqrt(heat))[..., None]
            cells = (1 - share) * grey + share * colours[np.rint(255 * heat).astype(np.uint8)]
            for head, cell in enumerate(cells.astype(np.uint8)):
                cell = Image.fromarray(cell)
                _mark(ImageDraw.Draw(cell), x * scale, y * scale)
                figure.paste(cell, (_LEFT + head * (columns + _GAP), top))
        yield figure


def _mark(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    for radius, colour, width in ((5, (0, 0, 0), 3), (4, _MARK, 2)):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, outline=colour, width=width)
