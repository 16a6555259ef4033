"""The attention operator in ONNX.

In a traced graph "blocked" attention is one node, and this is what it becomes: all logits of one
head at a time. Those of all heads at once take eight times the memory, and as channels of q and k
("folded"), which has the fewest operators, onnxruntime takes more than twice the time.
"""

from typing import Any

from onnxscript import opset18 as op

# twice this is finite: an image without a real pixel must not make NaN
_LOWEST = -(2.0**126)


def attention(
    q: Any, k: Any, v: Any, r_h: Any, r_w: Any, valid_size: Any = None, scale: float = 1.0
) -> Any:
    """``torch.ops.aa_detection.blocked_attention`` as ONNX operators.

    Shapes: q and k ``(B, h, H, W, d_k)``, v ``(B, h, H, W, d_v)``, r_h ``(H, H, d_k)``, r_w
    ``(W, W, d_k)``, valid_size ``(B, 2)``; to ``(B, h, H, W, d_v)``.
    """
    heads, key_depth, value_depth = q.shape[1], q.shape[4], v.shape[4]
    q = op.Mul(q, op.Constant(value_float=scale))
    bias_h = op.Einsum(q, r_h, equation="bhixd,ijd->bhixj")
    bias_w = op.Einsum(q, r_w, equation="bhixd,xyd->bhixy")
    if valid_size is not None:
        rows, columns = (_inside(valid_size, axis, v) for axis in (0, 1))  # (B, H), (B, W)
        lowest = op.Constant(value_float=_LOWEST)
        bias_h = op.Where(op.Unsqueeze(rows, _ints(1, 2, 3)), bias_h, lowest)
        bias_w = op.Where(op.Unsqueeze(columns, _ints(1, 2, 3)), bias_w, lowest)

    # pixels numbered row by row, and a tensor a head: 0 keeps a size, -1 is what remains
    def by_head(x: Any, channels: list[int]) -> Any:
        x = op.Reshape(x, _ints(0, 0, -1, *channels))
        return op.Split(x, axis=1, num_outputs=heads)

    height, width = (op.Shape(v, start=axis, end=axis + 1) for axis in (2, 3))
    pixels = op.Mul(height, width)
    bias_h = op.Reshape(bias_h, op.Concat(_ints(0, 0), pixels, height, _ints(1), axis=0))
    bias_w = op.Reshape(bias_w, op.Concat(_ints(0, 0), pixels, _ints(1), width, axis=0))
    logits_shape = op.Concat(_ints(0, 0), pixels, pixels, axis=0)
    outs = []
    for q_, k_, v_, bias_h_, bias_w_ in zip(
        by_head(q, [key_depth]),
        (op.Transpose(x, perm=[0, 1, 3, 2]) for x in by_head(k, [key_depth])),
        by_head(v, [value_depth]),
        op.Split(bias_h, axis=1, num_outputs=heads),
        op.Split(bias_w, axis=1, num_outputs=heads),
    ):
        bias = op.Reshape(op.Add(bias_h_, bias_w_), logits_shape)
        weights = op.Softmax(op.Add(op.MatMul(q_, k_), bias), axis=-1)  # (B, 1, H * W, H * W)
        outs.append(op.MatMul(weights, v_))
    out = op.Reshape(op.Concat(*outs, axis=1), op.Shape(v))
    if valid_size is not None:
        real = op.And(op.Unsqueeze(rows, _ints(2)), op.Unsqueeze(columns, _ints(1)))  # (B, H, W)
        out = op.Where(op.Unsqueeze(real, _ints(1, 4)), out, op.Constant(value_float=0.0))
    return out


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _inside(valid_size: Any, axis: int, v: Any) -> Any:
    """``(B, size)`` booleans: rows (axis 0) or columns (axis 1) that are inside the image."""
    size = op.Squeeze(op.Shape(v, start=2 + axis, end=3 + axis))
    position = op.Range(op.Constant(value_int=0), size, op.Constant(value_int=1))
    return op.Less(position, op.Gather(valid_size, _ints(axis), axis=1))
