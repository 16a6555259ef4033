"""The weights of a few queries against the dense specification, which materialises all."""

import pytest
import torch

from aa_detection.attention import attention_at, relative_attention_2d


def dense_weights(q, k, rel_h, rel_w, **options):
    """``(B, heads, H, W, H, W)``: with one-hot values the output is the weights."""
    batch, heads, height, width, _ = q.shape
    one_hot = torch.eye(height * width, dtype=q.dtype).view(1, 1, height, width, -1)
    v = one_hot.expand(batch, heads, -1, -1, -1)
    out = relative_attention_2d(q, k, v, rel_h, rel_w, backend="dense", **options)
    return out.unflatten(-1, (height, width))


@pytest.mark.parametrize(
    "size, max_size, options",
    [
        ((3, 5), None, {}),
        ((5, 3), (2, 9), {"scale": 0.7}),
        ((4, 6), (None, 6), {}),
        ((4, 6), (None, None), {"scale": -1.0}),
        ((6, 4), (3, 2), {"valid_size": torch.tensor([[6, 4], [3, 1]])}),
        ((6, 4), None, {"valid_size": torch.tensor([[2, 4], [0, 0]])}),
    ],
    ids=["fits", "clamped", "no rows", "no positions", "padded", "empty image"],
)
def test_weights_are_those_of_the_specification(random_inputs, size, max_size, options):
    q, k, _, *tables = random_inputs(2, 3, *size, max_size=max_size)
    expected = dense_weights(q, k, *tables, **options)
    queries = torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1]))
    queries = torch.cat([queries, queries[:2]])
    weights = attention_at(q, k, *tables, queries, **options)
    assert weights.shape == (2, 3, len(queries), *size)
    expected = expected[:, :, queries[:, 0], queries[:, 1]]
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)


def test_half_precision_goes_up(random_inputs):
    q, k, _, *tables = (x.detach() for x in random_inputs(1, 2, 3, 4, dtype=torch.float16))
    exact = attention_at(*(x.double() for x in (q, k, *tables)), torch.tensor([[1, 2]]))
    weights = attention_at(q, k, *tables, torch.tensor([[1, 2]]))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, exact.float(), rtol=1e-5, atol=1e-7)


def test_arguments_stay_as_they_are(random_inputs):
    inputs = [x.detach() for x in random_inputs(1, 2, 3, 4)]
    before = [x.clone() for x in inputs]
    q, k, _, *tables = inputs
    attention_at(q, k, *tables, torch.tensor([[0, 0]]), valid_size=torch.tensor([[2, 2]]))
    torch.testing.assert_close(inputs, before, rtol=0, atol=0)


def test_no_queries(random_inputs):
    q, k, _, *tables = random_inputs(1, 2, 3, 4)
    assert attention_at(q, k, *tables, torch.empty(0, 2).long()).shape == (1, 2, 0, 3, 4)


@pytest.mark.parametrize("query", [(3, 0), (0, 4), (-1, 0)])
def test_a_query_outside_the_map(random_inputs, query):
    q, k, _, *tables = random_inputs(1, 2, 3, 4)
    with pytest.raises(ValueError, match=rf"query \({query[0]}, {query[1]}\) is outside a map"):
        attention_at(q, k, *tables, torch.tensor([(0, 0), query]))
