"""The attention operator in ONNX.

In a traced graph, "blocked" attention is one node. This module translates it to a loop over rows of
queries, so that only one row's logits of all heads exist at a time.
"""

from typing import Any

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op

# twice this is still finite: an image without a real pixel must not give NaN
_LOWEST = -(2.0**126)


def attention(
    q: Any, k: Any, v: Any, r_h: Any, r_w: Any, valid_size: Any = None, scale: float = 1.0
) -> Any:
    """Express ``torch.ops.aa_detection.blocked_attention`` in ONNX operators.

    Shapes: q and k ``(B, h, H, W, d_k)``, v ``(B, h, H, W, d_v)``, r_h ``(H, H, d_k)``, r_w
    ``(W, W, d_k)``, valid_size ``(B, 2)``; returns ``(B, h, H, W, d_v)``.
    """
    key_depth, value_depth = q.shape[4], v.shape[4]
    q = op.Mul(q, op.Constant(value_float=scale))
    bias_h = op.Einsum(q, r_h, equation="bhixd,ijd->bhixj")
    bias_w = op.Einsum(q, r_w, equation="bhixd,xyd->bhixy")
    if valid_size is not None:
        rows, columns = (_inside(valid_size, axis, v) for axis in (0, 1))  # (B, H), (B, W)
        lowest = op.Constant(value_float=_LOWEST)
        bias_h = op.Where(op.Unsqueeze(rows, _ints(1, 2, 3)), bias_h, lowest)
        bias_w = op.Where(op.Unsqueeze(columns, _ints(1, 2, 3)), bias_w, lowest)

    # pixels numbered row by row
    keys = op.Transpose(op.Reshape(k, _ints(0, 0, -1, key_depth)), perm=[0, 1, 3, 2])
    out = _by_query_row(q, bias_h, bias_w, keys, op.Reshape(v, _ints(0, 0, -1, value_depth)))
    if valid_size is not None:
        real = op.And(op.Unsqueeze(rows, _ints(2)), op.Unsqueeze(columns, _ints(1)))  # (B, H, W)
        out = op.Where(op.Unsqueeze(real, _ints(1, 4)), out, op.Constant(value_float=0.0))
    return out


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _inside(valid_size: Any, axis: int, v: Any) -> Any:
    """Return which rows (axis 0) or columns (axis 1) are in the image, ``(B, size)`` booleans."""
    size = op.Squeeze(op.Shape(v, start=2 + axis, end=3 + axis))
    position = op.Range(op.Constant(value_int=0), size, op.Constant(value_int=1))
    return op.Less(position, op.Gather(valid_size, _ints(axis), axis=1))


@script(default_opset=op)
def _by_query_row(
    q: FLOAT[...], bias_h: FLOAT[...], bias_w: FLOAT[...], keys: FLOAT[...], values: FLOAT[...]
) -> FLOAT[...]:
    """Loop over query rows; keys ``(B, h, d_k, H * W)``, values ``(B, h, H * W, d_v)``."""

    # Keys and values are states that stay the same: OpenVINO cannot read a Scan that uses values
    # from outside. onnxscript would take the return annotation of a subgraph for the function's.
    @graph()
    def row(  # type: ignore[no-untyped-def]
        row_keys: FLOAT[...],
        row_values: FLOAT[...],
        q_row: FLOAT[...],
        bias_h_row: FLOAT[...],
        bias_w_row: FLOAT[...],
    ):
        content = op.MatMul(q_row, row_keys)  # (B, h, W, H * W)
        bias = op.Unsqueeze(bias_h_row, [-1]) + op.Unsqueeze(bias_w_row, [-2])
        weights = op.Softmax(content + op.Reshape(bias, op.Shape(content)), axis=-1)
        row_out = op.MatMul(weights, row_values)
        return op.Identity(row_keys), op.Identity(row_values), row_out

    _, _, out = op.Scan(
        keys,
        values,
        q,
        bias_h,
        bias_w,
        body=row,
        num_scan_inputs=3,
        scan_input_axes=[2, 2, 2],
        scan_output_axes=[2],
    )
    return out
