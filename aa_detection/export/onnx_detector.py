"""What surrounds a RetinaNet's network in an ONNX file: preprocessing before it, boxes after it.

Both are written in ONNX operators rather than traced, because the number of boxes depends on the
image. Their order is that of both engines' detectors: the best scores of each level, boxes,
suppression within each class, the best of all classes, and only then clipping to the image.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from ..config import by_level
from .graph import prediction_names

# exp() of a larger predicted log size is not a useful box; both engines clamp here
_LARGEST_LOG_SIZE = math.log(1000 / 16)

SCORE_THRESHOLD = "score_threshold"  # name of the constant


class Operators:
    """Appends nodes to a graph: ``operators.Add(x, y)`` returns the sum's value.

    Arrays, numbers and lists among the inputs become constants: int64 if they are integers, else
    float32.
    """

    def __init__(self, graph: Any) -> None:
        from onnx_ir.tape import Tape

        self._graph, self._tape = graph, Tape(graph)

    def __getattr__(self, name: str) -> Any:
        return lambda *inputs, **attributes: self._tape.op(
            name, [self._value(x) for x in inputs], attributes
        )

    def several(self, name: str, outputs: int, *inputs: Any, **attributes: Any) -> Any:
        """Append a node with several outputs."""
        values = [self._value(x) for x in inputs]
        return self._tape.op_multi_out(name, values, attributes, num_outputs=outputs)

    def constant(self, name: str, array: np.ndarray) -> Any:
        """Add a named constant."""
        from onnx_ir import tensor

        return self._tape.initializer(tensor(array, name=name))

    def _value(self, x: Any) -> Any:
        if not isinstance(x, (int, float, list, np.ndarray, np.generic)):
            return x  # a value of the graph
        array = np.asarray(x)
        kind = np.int64 if array.dtype.kind in "iu" else np.float32
        return self.constant(f"detector_constant_{len(self._graph.initializers)}", kind(array))


def add_preprocessing(graph: Any, cfg: CfgNode, size_divisibility: int) -> Any:
    """Let a graph take one image instead of a normalised, padded batch; return the image."""
    from onnx_ir import DataType, Shape, TensorType, Value
    from onnx_ir.convenience import replace_all_uses_with

    op = Operators(graph)
    shape = Shape(["height", "width", 3])
    image = Value(name="image", shape=shape, type=TensorType(DataType.UINT8))
    pixels = op.Cast(op.Transpose(image, perm=[2, 0, 1]), to=DataType.FLOAT)
    if cfg.INPUT.FORMAT != "RGB":
        pixels = op.Gather(pixels, [2, 1, 0], axis=0)
    mean, std = (np.reshape(x, (3, 1, 1)) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    pixels = op.Div(op.Sub(pixels, np.float32(mean)), np.float32(std))
    missing = op.Mod(op.Neg(op.Shape(image, end=2)), size_divisibility)  # rows, columns
    pixels = op.Pad(pixels, op.Concat([0, 0, 0, 0], missing, axis=0))
    images = op.Unsqueeze(pixels, [0])
    (batch,) = graph.inputs
    images.type, images.shape = batch.type, Shape([1, 3, None, None])
    replace_all_uses_with(batch, images)
    graph.inputs[:] = [image]
    return image


def add_boxes(graph: Any, cfg: CfgNode, strides: Mapping[str, int]) -> None:
    """Decode the predictions of all anchors.

    Outputs: ``boxes`` (1, anchors, 4), not clipped, and ``scores`` (1, anchors, classes).
    """
    op = Operators(graph)
    boxes, scores = [], []
    for level in _levels(op, graph, cfg, strides):
        count = op.Squeeze(op.Shape(level.deltas, end=1))
        boxes.append(level.boxes(op.Range(0, count, 1)))
        scores.append(level.scores)
    every_box, every_score = (op.Concat(*x, axis=0) for x in (boxes, scores))
    _set_outputs(
        graph,
        boxes=(op.Unsqueeze(every_box, [0]), np.float32, [1, "anchors", 4]),
        scores=(
            op.Unsqueeze(every_score, [0]),
            np.float32,
            [1, "anchors", cfg.MODEL.RETINANET.NUM_CLASSES],
        ),
    )


def add_detections(graph: Any, cfg: CfgNode, strides: Mapping[str, int], image: Any) -> None:
    """Decode the predictions and select detections.

    Outputs: ``boxes`` (detections, 4), ``scores`` and ``classes`` (detections,), best first.
    """
    retinanet, op = cfg.MODEL.RETINANET, Operators(graph)
    threshold = op.constant(SCORE_THRESHOLD, np.float32(retinanet.SCORE_THRESH_TEST))
    found = [
        level.best(retinanet.TOPK_CANDIDATES_TEST) for level in _levels(op, graph, cfg, strides)
    ]
    boxes, scores, classes = (op.Concat(*x, axis=0) for x in zip(*found))
    chosen = op.Squeeze(op.NonZero(op.Greater(scores, threshold)), [0])
    boxes, scores, classes = (op.Gather(x, chosen) for x in (boxes, scores, classes))

    # one row for each class, in which boxes of other classes have a score that never counts
    rows = np.arange(retinanet.NUM_CLASSES)[:, None]
    by_class = op.Where(op.Equal(op.Unsqueeze(classes, [0]), rows), scores, -1.0)
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    kept = op.NonMaxSuppression(
        op.Unsqueeze(boxes, [0]),
        op.Unsqueeze(by_class, [0]),
        [limit],
        [float(retinanet.NMS_THRESH_TEST)],
        [0.0],
    )  # (kept, 3): image, class, box
    kept = op.Gather(kept, 2, axis=1)
    count = op.Min(op.Shape(kept), [limit])
    _, order = op.several("TopK", 2, op.Gather(scores, kept), count)
    kept = op.Gather(kept, order)
    boxes, scores, classes = (op.Gather(x, kept) for x in (boxes, scores, classes))

    sides = op.Cast(op.Gather(op.Shape(image), [1, 0, 1, 0]), to=_type(np.float32))
    boxes = op.Max(op.Min(boxes, sides), 0.0)
    start, end = op.several("Split", 2, boxes, axis=1, num_outputs=2)
    sized = op.ReduceMin(op.Cast(op.Less(start, end), to=_type(np.int64)), [1], keepdims=0)
    visible = op.Squeeze(op.NonZero(sized), [0])
    boxes, scores, classes = (op.Gather(x, visible) for x in (boxes, scores, classes))
    _set_outputs(
        graph,
        boxes=(boxes, np.float32, ["detections", 4]),
        scores=(scores, np.float32, ["detections"]),
        classes=(classes, np.int64, ["detections"]),
    )


class _Level:
    """Predictions of one pyramid level in the graph, by anchor.

    An anchor's number counts rows, then columns, then the anchors of a pixel, of which there are
    `cells`, ``(A, 4)``, centred at zero.
    """

    def __init__(
        self, op: Operators, logits: Any, deltas: Any, cells: np.ndarray, stride: int, cfg: CfgNode
    ) -> None:
        self.op, self.cells, self.stride = op, cells, stride
        self.offset = float(cfg.MODEL.ANCHOR_GENERATOR.OFFSET * stride)
        self.weights = cfg.MODEL.RETINANET.BBOX_REG_WEIGHTS
        self.num_classes = cfg.MODEL.RETINANET.NUM_CLASSES
        self.columns = op.Squeeze(op.Shape(deltas, start=3, end=4))
        self.deltas = self._by_anchor(deltas, 4)
        self.scores = op.Sigmoid(self._by_anchor(logits, self.num_classes))

    def _by_anchor(self, x: Any, values: int) -> Any:
        """Reshape ``(1, A * values, H, W)`` to ``(H * W * A, values)``."""
        by_cell = self.op.Reshape(x, [len(self.cells), values, -1])
        return self.op.Reshape(self.op.Transpose(by_cell, perm=[2, 0, 1]), [-1, values])

    def best(self, most: int) -> tuple[Any, Any, Any]:
        """Return boxes, scores and classes of the highest scores, at most `most`."""
        op = self.op
        scores = op.Reshape(self.scores, [-1])
        best, index = op.several("TopK", 2, scores, op.Min(op.Shape(scores), [most]))
        count = self.num_classes
        return self.boxes(op.Div(index, count)), best, op.Mod(index, count)

    def boxes(self, anchors: Any) -> Any:
        """Return the boxes of anchors by number, ``(N, 4)``."""
        op, count = self.op, len(self.cells)
        pixel = op.Div(anchors, count)
        x, y = op.Mod(pixel, self.columns), op.Div(pixel, self.columns)
        place = op.Concat(op.Unsqueeze(x, [1]), op.Unsqueeze(y, [1]), axis=1)
        shift = op.Add(
            op.Mul(op.Cast(place, to=_type(np.float32)), float(self.stride)), self.offset
        )
        cell = op.Gather(np.float32(self.cells), op.Mod(anchors, count))
        start, end = (
            op.Add(corner, shift) for corner in op.several("Split", 2, cell, axis=1, num_outputs=2)
        )
        size = op.Sub(end, start)
        centre = op.Add(start, op.Mul(size, 0.5))
        deltas = op.Div(op.Gather(self.deltas, anchors), np.float32(self.weights))
        move, log_size = op.several("Split", 2, deltas, axis=1, num_outputs=2)
        centre = op.Add(op.Mul(move, size), centre)
        half = op.Mul(op.Mul(op.Exp(op.Min(log_size, _LARGEST_LOG_SIZE)), size), 0.5)
        return op.Concat(op.Sub(centre, half), op.Add(centre, half), axis=1)


def _levels(
    op: Operators, graph: Any, cfg: CfgNode, strides: Mapping[str, int]
) -> Sequence[_Level]:
    generator, names = cfg.MODEL.ANCHOR_GENERATOR, cfg.MODEL.RETINANET.IN_FEATURES
    outputs = {output.name: output for output in graph.outputs}
    sizes, ratios = (
        by_level(lists, len(names)) for lists in (generator.SIZES, generator.ASPECT_RATIOS)
    )
    levels = []
    for name, size, ratio in zip(names, sizes, ratios):
        logits, deltas = (outputs[each] for each in prediction_names(name))
        cells = _cell_anchors(size, ratio)
        levels.append(_Level(op, logits, deltas, cells, strides[name], cfg))
    return levels


def _cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Return ``(A, 4)`` anchors around zero, ratios (height / width) innermost."""
    size, ratio = (x.ravel() for x in np.meshgrid(sizes, ratios, indexing="ij"))
    half = np.stack([size / np.sqrt(ratio), size * np.sqrt(ratio)], axis=1) / 2
    return np.concatenate([-half, half], axis=1)


def _type(kind: type) -> Any:
    from onnx_ir import DataType

    return DataType.FLOAT if kind is np.float32 else DataType.INT64


def _set_outputs(graph: Any, **outputs: tuple[Any, type, list[int | str]]) -> None:
    from onnx_ir import Shape, TensorType

    for name, (value, kind, shape) in outputs.items():
        value.name, value.type, value.shape = name, TensorType(_type(kind)), Shape(shape)
    graph.outputs[:] = [value for value, _, _ in outputs.values()]
    graph.sort()
