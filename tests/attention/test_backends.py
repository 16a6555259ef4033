"""Every backend computes what dense computes, gradients included."""

import logging
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from aa_detection.attention import blocked, folded, native, relative_attention_2d
from aa_detection.attention.functional import choose_backend

BACKENDS = ["blocked", "folded"]


def output_and_gradients(inputs, backend, **arguments):
    """The output and the gradient of each input, for a gradient that depends on the output."""
    out = relative_attention_2d(*inputs, backend=backend, **arguments)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    loss = (weight * out.double()).sin().sum()
    return [out.detach(), *torch.autograd.grad(loss, [x for x in inputs if x is not None])]


sizes = st.integers(1, 9)


@st.composite
def problems(draw):
    batch, height, width = draw(st.integers(0, 3)), draw(sizes), draw(sizes)
    valid = st.tuples(st.integers(0, height + 1), st.integers(0, width + 1))
    shape = dict(
        batch=batch,
        heads=draw(st.integers(1, 3)),
        height=height,
        width=width,
        d_k=draw(st.integers(1, 6)),
        d_v=draw(st.integers(1, 5)),
        max_size=(draw(st.none() | sizes), draw(st.none() | sizes)),
        channels_last=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
    sizes_or_none = draw(st.none() | st.lists(valid, min_size=batch, max_size=batch))
    valid_size = (
        None if sizes_or_none is None else torch.tensor(sizes_or_none).view(batch, 2).long()
    )
    return shape, dict(valid_size=valid_size, scale=draw(st.sampled_from([None, 0.4, 1.3])))


@pytest.mark.parametrize("backend", BACKENDS)
# from one query a block to all heads in one
@given(problem=problems(), logits=st.sampled_from([1, 40, 300, 2**18]))
@settings(max_examples=250, deadline=None, derandomize=True)
def test_agrees_with_dense_in_float64(random_inputs, backend, problem, logits):
    shape, arguments = problem
    inputs = random_inputs(**shape)
    expected = output_and_gradients(inputs, "dense", **arguments)
    with patch.object(blocked, "LOGITS_PER_THREAD", logits):
        actual = output_and_gradients(inputs, backend, **arguments)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# (height, width, d_k, d_v): the maps of a RetinaNet at 320x320, odd ones, single rows and columns
SHAPES = [
    (20, 20, 7, 3),
    (10, 10, 13, 6),
    (25, 42, 20, 3),
    (7, 5, 4, 1),
    (1, 30, 8, 8),
    (30, 1, 8, 8),
]


@pytest.mark.parametrize("backend", [*BACKENDS, "native"])
@pytest.mark.parametrize("height, width, d_k, d_v", SHAPES)
def test_float32_is_within_1e_5_of_float64(random_inputs, backend, height, width, d_k, d_v):
    shape = dict(batch=2, heads=2, height=height, width=width, d_k=d_k, d_v=d_v)
    valid_size = torch.tensor([[height, width], [max(1, height - 3), max(1, width // 2)]])
    exact = output_and_gradients(random_inputs(**shape), "dense", valid_size=valid_size)
    inputs = [x.detach().float().requires_grad_() for x in random_inputs(**shape)]
    actual = output_and_gradients(inputs, backend, valid_size=valid_size)
    for x, y in zip(actual, exact):
        # along a single row or column the gradient of its table is zero: compared with one then
        assert (x.double() - y).abs().max() <= 1e-5 * max(y.abs().max(), 1.0)


@pytest.mark.parametrize("backend", [*BACKENDS, "native"])
@pytest.mark.parametrize("dtype, error", [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)])
def test_half_precision(random_inputs, backend, dtype, error):
    """Within a few roundings of the exact result for the same, rounded inputs."""
    inputs = random_inputs(2, 2, 6, 7, d_k=8, dtype=dtype)
    valid_size = torch.tensor([[6, 7], [4, 5]])
    actual = output_and_gradients(inputs, backend, valid_size=valid_size)
    inputs = [x.detach().double().requires_grad_() for x in inputs]
    exact = output_and_gradients(inputs, "dense", valid_size=valid_size)
    for x, y in zip(actual, exact):
        assert x.dtype == dtype
        assert (x.double() - y).abs().max() <= error * y.abs().max()


def test_blocked_adds_up_the_images_gradients_in_single_precision(random_inputs):
    """In bfloat16, beside the first image's, the others' gradients of the tables would be lost."""
    inputs = [x.detach() for x in random_inputs(1, 1, 3, 4, dtype=torch.bfloat16)]
    valid_size = torch.tensor([[3, 4]] + 32 * [[3, 3], [3, 4]])  # no two in a row of one size
    weight = torch.tensor([256.0] + 64 * [1.0]).view(-1, 1, 1, 1, 1)
    results = []
    for dtype, backend in ((torch.bfloat16, "blocked"), (torch.float64, "dense")):
        maps = [x.to(dtype).expand(65, -1, -1, -1, -1) for x in inputs[:3]]
        tables = [x.to(dtype).requires_grad_() for x in inputs[3:]]
        out = relative_attention_2d(*maps, *tables, valid_size=valid_size, backend=backend)
        results.append(torch.autograd.grad((out * weight.to(dtype)).sum(), tables))
    for found, expected in zip(*results):
        assert (found.double() - expected).abs().max() <= 2**-5 * expected.abs().max()


@pytest.mark.parametrize("backend", [*BACKENDS, "native"])
def test_half_precision_does_not_reach_the_softmax(random_inputs, backend):
    """Logits that bfloat16 cannot tell apart: 1000 and 1001."""
    q = torch.full((1, 1, 1, 2, 2), 1.0, dtype=torch.bfloat16)
    k = torch.tensor([[1000.0, 0.0], [1000.0, 1.0]]).bfloat16().view(1, 1, 1, 2, 2)
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).bfloat16().view(1, 1, 1, 2, 2)
    out = relative_attention_2d(q, k, v, scale=1.0, backend=backend)
    expected = torch.tensor([0.0, 1.0]).softmax(0).expand(1, 1, 1, 2, 2)
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("backend", ["dense", *BACKENDS])
def test_padding_is_invisible(random_inputs, backend):
    """Not its size, not its content, and no gradient goes there; an image may be all padding."""
    q, k, v, rel_h, rel_w = random_inputs(3, 2, 6, 7, max_size=(6, 7))
    valid_size = torch.tensor([[4, 5], [6, 7], [0, 0]])
    out, *grads = output_and_gradients([q, k, v, rel_h, rel_w], backend, valid_size=valid_size)
    alone = relative_attention_2d(*(x[:1, :, :4, :5] for x in (q, k, v)), rel_h, rel_w)
    torch.testing.assert_close(out[:1, :, :4, :5], alone.detach(), rtol=1e-12, atol=1e-12)
    for x in (out, *grads[:3]):
        assert torch.isfinite(x).all()
        assert not x[0, :, 4:].any() and not x[0, :, :, 5:].any() and not x[2].any()
    assert all(torch.isfinite(x).all() for x in grads)

    changed = [x.detach().clone() for x in (q, k, v)]
    for x in changed:
        x[0, :, 4:], x[0, :, :, 5:], x[2] = 1e3, -1e3, 1e3
    again = relative_attention_2d(*changed, rel_h, rel_w, valid_size=valid_size, backend=backend)
    torch.testing.assert_close(again, out, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["blocked", "native"])
@pytest.mark.parametrize("scale", [1, 8, 64, 512])
def test_peaked_attention(random_inputs, backend, scale):
    """Where most weights are too small for float32. Integers, so that the logits are exact."""
    inputs = random_inputs(1, 2, 9, 11)
    inputs = [(3 * x.detach()).round().requires_grad_() for x in inputs]
    exact = output_and_gradients(inputs, "dense", scale=scale)
    inputs = [x.detach().float().requires_grad_() for x in inputs]
    actual = output_and_gradients(inputs, backend, scale=scale)
    for x, y in zip(actual, exact):
        # where the softmax is a maximum, gradients are differences of numbers times the scale
        assert (x.double() - y).abs().max() <= 1e-5 * max(y.abs().max(), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("std", [1, 10, 30, 100, 1000])
def test_blocked_weights_are_never_denormal(dtype, std):
    """Several times slower than other numbers; their products with gradients must not be either."""
    q, k = torch.randn(2, 1, 64, 1, dtype=dtype) * std, torch.randn(2, 1, 1, 99, dtype=dtype)[0]
    weights = torch.empty(1, 64, 99, dtype=dtype)
    blocked._softmax(q[0], k, torch.zeros(1, 64, 9).to(q), torch.zeros(1, 64, 11).to(q), weights)
    assert weights.min() > 0.005 * torch.finfo(dtype).tiny ** 0.5
    torch.testing.assert_close(weights, (q[0] @ k).softmax(-1))


def test_blocked_holds_one_block_of_logits(tmp_path):
    """8 heads of 2304 pixels: 170 MB of logits in float32, several times that in dense."""
    code = """
import resource
import torch
from aa_detection.attention import relative_attention_2d

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB

inputs = [torch.randn(1, 8, 48, 48, d, requires_grad=True) for d in (8, 8, 3)]
inputs += [torch.randn(95, 8, requires_grad=True) for _ in range(2)]

def forward_and_backward(size):
    maps = (x[:, :, :size, :size] for x in inputs[:3])
    relative_attention_2d(*maps, *inputs[3:], backend="blocked").sum().backward()

forward_and_backward(16)  # what PyTorch allocates once
before = peak()
forward_and_backward(48)
print(peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 32


@pytest.mark.parametrize(
    "shape, options, with_kernel, without",
    [
        ((1, 8, 10, 10, 13), {}, "native", "dense"),
        ((2, 8, 10, 10, 13), {}, "native", "blocked"),
        ((1, 8, 40, 40, 20), {}, "native", "blocked"),
        ((1, 8, 40, 40, 20), {"dtype": torch.bfloat16}, "native", "blocked"),
        ((1, 8, 10, 10, 20), {"dtype": torch.float64}, "dense", "dense"),
        ((1, 8, 40, 40, 20), {"dtype": torch.float64}, "blocked", "blocked"),
        ((1, 8, 40, 40, 20), {"device": "meta"}, "folded", "folded"),
        ((1, 8, 40, 40, 20), {"device": "meta", "dtype": torch.float64}, "blocked", "blocked"),
    ],
)
def test_what_auto_picks(monkeypatch, shape, options, with_kernel, without):
    q = torch.empty(shape, **options)
    for absent, expected in ((None, with_kernel), ("not built", without)):
        monkeypatch.setattr(native, "absent", absent)
        assert choose_backend(q, q) == expected


def test_auto_says_once_what_it_picked_and_why(random_inputs, caplog):
    q, _, v, *_ = random_inputs(1, 8, 13, 14, d_k=11, d_v=2)
    with caplog.at_level(logging.DEBUG, logger="aa_detection.attention"):
        for _ in range(2):
            choose_backend(q, v)
    assert caplog.messages == [
        "attention of q (1, 8, 13, 14, 11) and d_v = 2, torch.float64, cpu by blocked "
        "(not native: it computes in float32, not in torch.float64; "
        "not dense: more than 2**17 logits)"
    ]


def test_auto_agrees_with_dense(random_inputs):
    for size in (3, 12):
        inputs = random_inputs(1, 8, size, size)
        expected = output_and_gradients(inputs, "dense")
        actual = output_and_gradients(inputs, "auto")
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "device, dtype, size, expected",
    [
        ("cpu", torch.float32, 20, 64),
        ("cuda", torch.float32, 20, 8),  # no flash attention in float32
        ("cuda", torch.bfloat16, 20, 64),
        ("cuda", torch.float16, 120, 8),  # nor for 264 columns
    ],
)
def test_folded_pads_v_as_far_as_a_fused_kernel_asks(device, dtype, size, expected):
    if device == "cuda" and torch.__version__ < "2.9" and not torch.cuda.is_available():
        pytest.skip("this torch asks for a driver to index a fake CUDA tensor")
    seen = []

    def attention(q, k, v, **_):
        assert q.shape == k.shape and q.shape[-1] % 8 == 0
        seen.append(v.shape[-1])
        return v

    with FakeTensorMode(), patch.object(folded.F, "scaled_dot_product_attention", attention):
        q, v = (torch.empty(1, 2, size, size, d, dtype=dtype, device=device) for d in (20, 3))
        table = torch.empty(2 * size - 1, 20, dtype=dtype, device=device)
        out = relative_attention_2d(q, q, v, table, table, backend="folded")
    assert seen == [expected] and out.shape == v.shape


def test_folded_is_right_where_v_is_narrower_than_q(random_inputs, monkeypatch):
    """As on CUDA in float32."""
    monkeypatch.setattr(folded, "_value_columns", lambda v, columns: 8)
    inputs = random_inputs(2, 2, 6, 7, d_v=3)
    valid_size = torch.tensor([[6, 7], [4, 5]])
    expected = output_and_gradients(inputs, "dense", valid_size=valid_size)
    actual = output_and_gradients(inputs, "folded", valid_size=valid_size)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
