"""The specification against the formula, one query and one key pixel at a time."""

import math

import pytest
import torch

from aa_detection.attention import relative_attention_2d


def by_pixel(q, k, v, rel_h, rel_w, scale, valid_size):
    batch, heads, height, width, _ = q.shape
    max_h, max_w = (len(rel_h) + 1) // 2, (len(rel_w) + 1) // 2
    out = torch.zeros_like(v)
    for b in range(batch):
        rows, columns = (height, width) if valid_size is None else valid_size[b].tolist()
        pixels = [(i, x) for i in range(rows) for x in range(columns)]
        for n in range(heads):
            for i, x in pixels:
                weights = {}
                for j, y in pixels:
                    down = min(max(j - i, 1 - max_h), max_h - 1)
                    right = min(max(y - x, 1 - max_w), max_w - 1)
                    key = k[b, n, j, y] + rel_h[down + max_h - 1] + rel_w[right + max_w - 1]
                    weights[j, y] = math.exp(scale * float(q[b, n, i, x] @ key))
                total = sum(weights.values())
                for (j, y), weight in weights.items():
                    out[b, n, i, x] += weight / total * v[b, n, j, y]
    return out


@pytest.mark.parametrize(
    "max_size, scale, valid_size",
    [
        ((3, 4), None, None),
        ((6, 7), None, None),
        ((2, 1), 0.3, None),
        ((3, 4), -1.0, [[3, 4], [2, 3]]),
        ((2, 3), None, [[1, 1], [0, 0]]),
    ],
    ids=["fits", "larger table", "clamped", "padded", "empty image"],
)
def test_dense_is_the_formula(random_inputs, max_size, scale, valid_size):
    inputs = [x.detach() for x in random_inputs(2, 2, 3, 4, max_size=max_size)]
    valid_size = None if valid_size is None else torch.tensor(valid_size)
    out = relative_attention_2d(*inputs, scale=scale, valid_size=valid_size, backend="dense")
    expected = by_pixel(*inputs, scale=scale or 4**-0.5, valid_size=valid_size)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_a_missing_table_is_a_table_of_zeros(random_inputs):
    q, k, v, rel_h, rel_w = random_inputs(1, 2, 3, 4)
    both = relative_attention_2d(q, k, v, rel_h, rel_w, backend="dense")
    for without, zero in (
        ((None, rel_w), (torch.zeros_like(rel_h), rel_w)),
        ((rel_h, None), (rel_h, torch.zeros_like(rel_w))),
        ((None, None), (torch.zeros_like(rel_h), torch.zeros_like(rel_w))),
    ):
        out = relative_attention_2d(q, k, v, *without, backend="dense")
        expected = relative_attention_2d(q, k, v, *zero, backend="dense")
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(out, both)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(q=(1, 2, 3, 4)), "q and k must both have shape"),
        (dict(k=(1, 2, 3, 5, 4)), r"got \(1, 2, 3, 4, 4\) and \(1, 2, 3, 5, 4\)"),
        (dict(v=(1, 1, 3, 4, 3)), "v must have shape"),
        (dict(rel_h=(4, 4)), "rel_h must have shape"),
        (dict(rel_w=(7, 5)), "rel_w must have shape .* d_k = 4, got"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    shapes = dict(
        q=(1, 2, 3, 4, 4), k=(1, 2, 3, 4, 4), v=(1, 2, 3, 4, 3), rel_h=(5, 4), rel_w=(7, 4)
    )
    inputs = {name: torch.zeros(shape) for name, shape in {**shapes, **change}.items()}
    with pytest.raises(ValueError, match=message):
        relative_attention_2d(**inputs)


@pytest.mark.parametrize(
    "valid_size, message",
    [
        (torch.tensor([3, 4]), r"valid_size must have shape \(B, 2\) = \(1, 2\), got \(2,\)"),
        (torch.tensor([[3.0, 4.0]]), "valid_size must hold integers, got torch.float32"),
    ],
)
def test_wrong_valid_size_is_named(random_inputs, valid_size, message):
    with pytest.raises(ValueError, match=message):
        relative_attention_2d(*random_inputs(1, 2, 3, 4), valid_size=valid_size)


def test_unknown_backend_lists_those_there_are(random_inputs):
    with pytest.raises(
        ValueError, match="'auto', 'dense', 'native', 'blocked', 'fused', 'folded'.* got 'fast'"
    ):
        relative_attention_2d(*random_inputs(1, 2, 3, 4), backend="fast")
