"""The operator under what PyTorch does to a network around it."""

import pytest
import torch
import torch.distributed as dist
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from aa_detection.attention import relative_attention_2d

BACKENDS = ["dense", "blocked", "folded", "native"]


class Attention(nn.Module):
    """The smallest layer with the operator in it: projections and tables to be trained."""

    def __init__(self, backend, heads=2, channels=4):
        super().__init__()
        torch.manual_seed(0)
        self.backend, self.heads = backend, heads
        self.qkv = nn.Conv2d(3, 3 * heads * channels, 1)
        self.rel_h = nn.Parameter(torch.randn(11, channels))
        self.rel_w = nn.Parameter(torch.randn(13, channels))

    def forward(self, x, valid_size=None):
        qkv = self.qkv(x).unflatten(1, (3, self.heads, -1)).permute(1, 0, 2, 4, 5, 3)
        return relative_attention_2d(
            *qkv, self.rel_h, self.rel_w, valid_size=valid_size, backend=self.backend
        )


def image(batch=2, height=6, width=7, dtype=torch.float32):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )


VALID_SIZE = torch.tensor([[6, 7], [4, 5]])


def gradients(model, *arguments):
    out = model(*arguments)
    return [out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("valid_size", [None, VALID_SIZE], ids=["whole", "padded"])
def test_compile_without_a_graph_break(backend, valid_size):
    if backend == "folded" and torch.__version__ < "2.9":
        pytest.skip("this torch compiles no gradient of its own fused attention")
    torch._dynamo.reset()
    model = Attention(backend)
    # aot_eager cannot view the gradients of PyTorch's own fused attention at dynamic sizes
    dynamic = backend != "folded"
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for x in (image(), image(height=5, width=8)):
        torch.testing.assert_close(
            gradients(compiled, x, valid_size), gradients(model, x, valid_size)
        )


@pytest.mark.parametrize("backend", ["blocked", "native"])
def test_compiled_is_one_node_a_pass(backend):
    graphs = []

    def record(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    compiler = aot_autograd(fw_compiler=record, bw_compiler=record)
    torch.compile(Attention(backend), backend=compiler, fullgraph=True)(image()).sum().backward()
    for targets, name in zip(graphs, (f"{backend}_attention", f"{backend}_attention_backward")):
        assert sum(f"aa_detection.{name}.default" == target for target in targets) == 1
        assert not any("softmax" in target for target in targets)
    assert len(graphs) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_export_with_any_map_size(backend):
    if backend in ("blocked", "native") and torch.__version__ < "2.9":
        pytest.skip("this torch exports no functions of autograd at dynamic sizes")
    model = Attention(backend).eval()
    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ("b", "h", "w"))
    shapes = {"x": {0: batch, 2: height, 3: width}, "valid_size": {0: batch}}
    exported = torch.export.export(model, (image(), VALID_SIZE), dynamic_shapes=shapes).module()
    for x in (image(), image(3, 9, 4)):
        valid_size = torch.tensor([[6, 7], [4, 3], [9, 1]])[: len(x)]
        torch.testing.assert_close(exported(x, valid_size), model(x, valid_size))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_the_logits_in_float32(backend):
    """bfloat16 in and out; between them the same as in float32, not as a bfloat16 product."""
    q, k, v = torch.randn(3, 1, 2, 5, 6, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    rel_h, rel_w = torch.randn(2, 11, 8, generator=torch.Generator().manual_seed(3))
    inputs = [x.float().requires_grad_() for x in (q, k, v, rel_h, rel_w)]
    expected = relative_attention_2d(*inputs, scale=4.0, backend="dense")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = relative_attention_2d(*inputs, scale=4.0, backend=backend)
        grads = torch.autograd.grad(out.square().sum(), inputs)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    expected_grads = torch.autograd.grad(expected.square().sum(), inputs)
    if backend in (
        "blocked",
        "native",
    ):  # dense and folded leave their backward to autograd and autocast
        torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_under_autocast(backend):
    model = Attention(backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(image())
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    expected = Attention("dense")
    expected(image()).square().sum().backward()
    for p, e in zip(model.parameters(), expected.parameters()):
        assert p.grad.dtype == torch.float32
        assert (p.grad - e.grad).abs().max() <= 2**-5 * e.grad.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(backend, use_reentrant):
    model = Attention(backend)
    x = image().requires_grad_()

    def with_checkpoint(x, valid_size):
        return checkpoint(model, x, valid_size, use_reentrant=use_reentrant)

    results = []
    for forward in (model, with_checkpoint):
        out = forward(x, VALID_SIZE)
        model.zero_grad()
        x.grad = None
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_functional_call_and_grad(backend):
    model = Attention(backend)
    parameters = {name: 0.5 * p.detach() for name, p in model.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (image(),)).square().sum()

    grads = torch.func.grad(loss)(parameters)
    model.load_state_dict(parameters)
    _, *expected = gradients(model, image())
    torch.testing.assert_close(list(grads.values()), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distributed_data_parallel(backend, tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        model = Attention(backend)
        DistributedDataParallel(model)(image(), VALID_SIZE).square().sum().backward()
    finally:
        dist.destroy_process_group()
    actual = [p.grad for p in model.parameters()]
    _, *expected = gradients(Attention(backend), image(), VALID_SIZE)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("backend", ["dense", "blocked", "folded"])  # in float64
@pytest.mark.parametrize("valid_size", [None, [[2, 3], [3, 1]]], ids=["whole", "padded"])
def test_gradcheck(random_inputs, backend, valid_size):
    inputs = random_inputs(2, 1, 3, 3, d_k=2, d_v=2, max_size=(2, 4))
    valid_size = None if valid_size is None else torch.tensor(valid_size)

    def attention(*inputs):
        return relative_attention_2d(*inputs, valid_size=valid_size, backend=backend)

    assert torch.autograd.gradcheck(attention, inputs)


def test_second_derivative(random_inputs):
    def attention(*inputs, backend="dense"):
        return relative_attention_2d(*inputs, backend=backend)

    inputs = random_inputs(1, 1, 2, 3, d_k=2, d_v=1)
    assert torch.autograd.gradgradcheck(attention, inputs)
    out = attention(*inputs, backend="blocked")
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative; use backend="dense"'):
        grad.sum().backward()


@pytest.mark.parametrize("valid_size", [None, [[3, 4], [0, 0]]], ids=["whole", "padded"])
def test_operators_are_well_formed(random_inputs, valid_size):
    """PyTorch's own check: schema, fake tensors, dynamic shapes."""
    q, k, v = (x.detach() for x in random_inputs(2, 1, 3, 4)[:3])
    r_h, r_w = q.new_ones(3, 3, 4), q.new_ones(4, 4, 4)
    valid_size = None if valid_size is None else torch.tensor(valid_size)
    arguments = (q, k, v, r_h, r_w, valid_size, 0.5)
    operators = torch.ops.aa_detection
    torch.library.opcheck(operators.blocked_attention.default, arguments)
    torch.library.opcheck(operators.blocked_attention_backward.default, (v, v, *arguments))
