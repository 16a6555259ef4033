"""An HTML file in which the mouse moves the query over an image.

The file is self-contained: it holds the image and, in half precision, the queries, keys and
distance tables of every layer. From these the browser computes the attention of the point under the
mouse, as :func:`aa_detection.attention.attention_at` does.
"""

import base64
import io
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..evaluation import Detections
from .attention_maps import LayerAttention, PictureAttention
from .colours import heat_colours

_PICTURE_SIDE = 1280  # pixels; larger images are shrunk


def attention_page(
    image: np.ndarray,
    attention: PictureAttention,
    detections: Detections,
    class_names: Sequence[str],
    points: Sequence[tuple[float, float]],
    title: str,
) -> str:
    """Return the page as HTML.

    Args:
        image: ``(H, W, 3)`` uint8, BGR; the image that `attention` belongs to.
        detections: drawn, and offered as query points.
        class_names: of the detections' classes.
        points: ``(x, y)`` in pixels of the image, offered as query points; the page opens with the
            first.
        title: such as the file's name.
    """
    content = {
        "title": title,
        "picture": _jpeg(image),
        "size": list(attention.picture_size),
        "colours": _base64(heat_colours()),
        "layers": [_layer(layer) for layer in attention.layers],
        "detections": [
            {"box": box, "score": score, "label": class_names[label]}
            for box, score, label in zip(
                detections.boxes.tolist(), detections.scores.tolist(), detections.classes.tolist()
            )
        ],
        "points": [list(point) for point in points],
    }
    # escape "<", so that a name cannot end the script element
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    template = resources.files(__package__).joinpath("attention_page.html")
    return template.read_text(encoding="utf-8").replace("{{DATA}}", data)


def _layer(layer: LayerAttention) -> dict[str, Any]:
    depth = layer.q.shape[-1]
    return {
        "name": layer.name,
        "label": layer.label,
        "heads": layer.q.shape[0],
        "size": list(layer.size),
        "depth": depth,
        "scale": depth**-0.5,
        "origin": list(layer.origin),
        "step": list(layer.step),
        **{name: _half(getattr(layer, name)) for name in ("q", "k", "rel_h", "rel_w")},
    }


def _half(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    limit = torch.finfo(torch.float16).max
    half = tensor.detach().float().clamp(-limit, limit).half().cpu().numpy()
    return _base64(half.astype("<f2"))


def _jpeg(image: np.ndarray) -> str:
    picture = Image.fromarray(image[:, :, ::-1])
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    return "data:image/jpeg;base64," + _base64(np.frombuffer(buffer.getbuffer(), np.uint8))


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
