"""The backend "fused" in Triton's interpreter, on the CPU: it agrees with dense in float64.

Triton reads TRITON_INTERPRET as it is imported, so these tests have a process of their own:
``TRITON_INTERPRET=1 pytest tests/attention/interpreted_fused.py``, as test_fused.py runs it.
bfloat16 is not tried, since the interpreter computes it wrongly.
"""

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from aa_detection.attention import fused, relative_attention_2d


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """The smallest there are: even these maps have several, the last of them ragged."""
    monkeypatch.setattr(fused, "tile", lambda *_: fused.Tile(16, 16))


def output_and_gradients(inputs, backend, **arguments):
    """The output and the gradient of each input, for a gradient that depends on the output."""
    out = relative_attention_2d(*inputs, backend=backend, **arguments)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    loss = (weight * out.double()).sin().sum()
    return [out.detach(), *torch.autograd.grad(loss, [x for x in inputs if x is not None])]


def problem(height, width, d_k, d_v, batch=1, heads=1, valid_size=None, scale=None, **others):
    """Inputs, and further arguments of the operator."""
    shape = dict(batch=batch, heads=heads, height=height, width=width, d_k=d_k, d_v=d_v, **others)
    valid_size = None if valid_size is None else torch.tensor(valid_size)
    return shape, dict(valid_size=valid_size, scale=scale)


PROBLEMS = {
    "odd, two images and heads": problem(3, 5, 7, 3, batch=2, heads=2),
    "three pieces a row": problem(2, 37, 4, 2),
    "a whole number of blocks": problem(2, 32, 16, 16),
    "a row": problem(1, 19, 13, 6),
    "a row, pieces": problem(1, 50, 1, 1),
    "a column": problem(19, 1, 4, 1),
    "a pixel": problem(1, 1, 3, 2),
    "wide": problem(3, 4, 64, 32),
    "distances clamped": problem(4, 18, 5, 3, max_size=(2, 3)),
    "larger tables": problem(2, 3, 4, 3, max_size=(5, 4)),
    "no vertical term": problem(3, 4, 4, 3, max_size=(None, 4)),
    "no horizontal term": problem(3, 4, 4, 3, max_size=(3, None)),
    "padded": problem(5, 7, 4, 3, batch=3, heads=2, valid_size=[[3, 4], [5, 7], [1, 1]]),
    "padded, pieces": problem(2, 37, 4, 3, batch=2, valid_size=[[1, 33], [2, 16]]),
    "all padding": problem(2, 3, 4, 3, batch=3, valid_size=[[0, 3], [2, 0], [0, 0]]),
    "larger than the map": problem(2, 3, 4, 3, valid_size=[[4, 9]]),
    "a convolution's layout": problem(3, 5, 7, 3, batch=2, heads=2, channels_last=False),
    "channels last": problem(3, 5, 7, 3, batch=2, heads=2, channels_last=True),
    "scaled": problem(3, 4, 4, 3, scale=1.3),
    "scaled by a negative number": problem(3, 4, 4, 3, scale=-1.3),
    "scaled by zero": problem(3, 4, 4, 3, scale=0.0),
    "no image": problem(3, 4, 4, 3, batch=0),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-5), (torch.float16, 2**-8)])
def test_agrees_with_dense(random_inputs, name, dtype, error):
    """Within a few roundings of the exact result for the same, rounded inputs."""
    shape, arguments = PROBLEMS[name]
    inputs = random_inputs(**shape, dtype=dtype)
    actual = output_and_gradients(inputs, "fused", **arguments)
    inputs = [x if x is None else x.detach().double().requires_grad_() for x in inputs]
    exact = output_and_gradients(inputs, "dense", **arguments)
    assert len(actual) == len(exact)
    for x, y in zip(actual, exact):
        assert x.dtype == dtype and x.shape == y.shape
        assert not y.numel() or (x.double() - y).abs().max() <= error * max(y.abs().max(), 1.0)


def test_padding_is_invisible(random_inputs):
    """Neither what it holds nor how much there is; no gradient goes there."""
    inputs = [x.detach() for x in random_inputs(2, 1, 4, 19, dtype=torch.float32)]
    valid_size = torch.tensor([[3, 17, 9], [-1, -2, 9]], dtype=torch.int32)[:, :2]
    results = []
    for content in (0.0, 1e3):
        for x in inputs[:3]:
            x[0, :, 3:], x[0, :, :, 17:], x[1] = content, -content, content
        leaves = [x.clone().requires_grad_() for x in inputs]
        results.append(output_and_gradients(leaves, "fused", valid_size=valid_size))
    for x, y in zip(*results):
        assert torch.equal(x, y)
    for x in results[0][:4]:
        assert not x[0, :, 3:].any() and not x[0, :, :, 17:].any() and not x[1].any()


def test_half_precision_does_not_reach_the_softmax():
    """Logits that float16 tells apart but products in it would not: 2000 and 2001."""
    q = torch.tensor([40.0, 1.0], dtype=torch.float16).expand(1, 1, 1, 2, 2)
    k = torch.tensor([[50.0, 0.5], [50.0, 1.0]]).half().view(1, 1, 1, 2, 2)
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).half().view(1, 1, 1, 2, 2)
    out = relative_attention_2d(q, k, v, scale=1.0, backend="fused")
    expected = torch.tensor([0.0, 0.5]).softmax(0).expand(1, 1, 1, 2, 2)
    torch.testing.assert_close(out.float(), expected, rtol=0.002, atol=0)


def test_peaked_attention(random_inputs):
    """Logits in the thousands, whose exponentials overflow unless the largest is subtracted.

    Float32 holds them to about 2e-4, and the weights to as much.
    """
    inputs = random_inputs(1, 1, 3, 18)
    exact = output_and_gradients(inputs, "dense", scale=200.0)
    inputs = [x.detach().float().requires_grad_() for x in inputs]
    for x, y in zip(output_and_gradients(inputs, "fused", scale=200.0), exact):
        assert (x.double() - y).abs().max() <= 2e-4 * max(y.abs().max(), 200.0)


def test_mixed_dtypes(random_inputs):
    """The output's is that of v, a gradient's that of its input."""
    inputs = random_inputs(1, 1, 2, 3, dtype=torch.float32)
    inputs[2] = inputs[2].detach().half().requires_grad_()
    out, *grads = output_and_gradients(inputs, "fused")
    assert out.dtype == torch.float16
    assert [x.dtype for x in grads] == [x.dtype for x in inputs]
    exact = relative_attention_2d(*(x.double() for x in inputs), backend="dense")
    torch.testing.assert_close(out.double(), exact, rtol=1e-3, atol=1e-3)


def test_autocast_stays_outside(random_inputs):
    inputs = random_inputs(1, 1, 2, 5, dtype=torch.float32)
    expected = output_and_gradients(inputs, "fused")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = output_and_gradients(inputs, "fused")
    for x, y in zip(actual, expected):
        assert torch.equal(x, y)


@pytest.mark.parametrize("valid_size", [None, [[3, 4], [0, 0]]], ids=["whole", "padded"])
def test_operators_are_well_formed(random_inputs, valid_size):
    """PyTorch's own check: schema, fake tensors, dynamic shapes."""
    q, k, v = (x.detach() for x in random_inputs(2, 1, 3, 4, dtype=torch.float32)[:3])
    r_h, r_w = q.new_ones(3, 3, 4), q.new_ones(4, 4, 4)
    valid_size = None if valid_size is None else torch.tensor(valid_size)
    arguments = (q, k, v, r_h, r_w, valid_size, 0.5)
    operators = torch.ops.aa_detection
    torch.library.opcheck(operators.fused_attention.default, arguments)
    out, lse = operators.fused_attention(*arguments)
    torch.library.opcheck(operators.fused_attention_backward.default, (v, out, lse, *arguments))


def test_compiled_it_is_one_node_a_pass(random_inputs):
    graphs = []

    def record(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    def attention(*inputs):
        return relative_attention_2d(*inputs, backend="fused")

    inputs = random_inputs(1, 1, 2, 5, dtype=torch.float32)
    expected = output_and_gradients(inputs, "fused")
    backend = aot_autograd(fw_compiler=record, bw_compiler=record)
    out = torch.compile(attention, backend=backend, fullgraph=True)(*inputs)
    torch.testing.assert_close(out.detach(), expected[0])
    out.sum().backward()
    for targets, name in zip(graphs, ("fused_attention", "fused_attention_backward")):
        assert sum(f"aa_detection.{name}.default" == target for target in targets) == 1
    assert len(graphs) == 2


def test_exported_it_takes_other_sizes(random_inputs):
    if torch.__version__ < "2.9":
        pytest.skip("this torch exports no functions of autograd at dynamic sizes")

    class Attention(torch.nn.Module):
        def forward(self, q, k, v, rel_h, rel_w):
            return relative_attention_2d(q, k, v, rel_h, rel_w, backend="fused")

    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ("b", "h", "w"))
    maps = {0: batch, 2: height, 3: width}
    shapes = {"q": maps, "k": maps, "v": maps, "rel_h": None, "rel_w": None}
    inputs = tuple(random_inputs(2, 1, 3, 4, max_size=(3, 3), dtype=torch.float32))
    exported = torch.export.export(Attention(), inputs, dynamic_shapes=shapes).module()
    others = random_inputs(3, 1, 2, 5, max_size=(3, 3), dtype=torch.float32)
    torch.testing.assert_close(exported(*others), Attention()(*others))


def test_functional_grad(random_inputs):
    inputs = random_inputs(1, 1, 2, 5, dtype=torch.float32)

    def loss(*inputs):
        return relative_attention_2d(*inputs, backend="fused").square().sum()

    grads = torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))(*inputs)
    torch.testing.assert_close(grads, torch.autograd.grad(loss(*inputs), inputs))


def test_there_is_no_second_derivative(random_inputs):
    inputs = random_inputs(1, 1, 2, 3, dtype=torch.float32)
    out = relative_attention_2d(*inputs, backend="fused")
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match='"fused" has no second derivative; use backend="dense"'):
        grad.sum().backward()
