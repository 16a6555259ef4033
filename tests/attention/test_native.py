"""The kernel against the specification in float64, and what is its own: builds, threads, forks."""

import logging
import os
import shutil
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aa_detection.attention import functional, native, relative_attention_2d
from aa_detection.attention.functional import choose_backend

built = pytest.mark.skipif(native.absent is not None, reason=str(native.absent))
SETS = native.library.instruction_sets if native.library else [None]


@pytest.fixture
def use_set(monkeypatch):
    """Takes one of `SETS` for the test."""
    return lambda name: monkeypatch.setattr(native, "instruction_set", SETS.index(name))


@pytest.fixture(autouse=True)
def threads():
    """What a test changes is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results(inputs, backend, **arguments):
    """The output and the gradient of each input, for a gradient that depends on the output."""
    out = relative_attention_2d(*inputs, backend=backend, **arguments)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    loss = (weight * out.double()).sin().sum()
    return [out.detach(), *torch.autograd.grad(loss, [x for x in inputs if x is not None])]


def to(dtype, inputs):
    return [None if x is None else x.detach().to(dtype).requires_grad_() for x in inputs]


def assert_is_dense(inputs, error=1e-5, **arguments):
    """In float32, with a workspace in which every number that was not written is seen."""
    inputs = to(torch.float32, inputs)
    full = torch.full
    with patch.object(native.torch, "empty", lambda n, dtype: full((n,), torch.nan, dtype=dtype)):
        actual = results(inputs, "native", **arguments)
    expected = results(to(torch.float64, inputs), "dense", **arguments)
    for x, y in zip(actual, expected, strict=True):
        assert x.dtype == torch.float32
        if y.numel():
            assert (x.double() - y).abs().max() <= error * max(y.abs().max(), 1.0)


sizes = st.integers(1, 9)


@st.composite
def problems(draw):
    batch, height, width = draw(st.integers(0, 3)), draw(sizes), draw(sizes)
    shape = dict(
        batch=batch,
        heads=draw(st.integers(1, 3)),
        height=height,
        width=width,
        d_k=draw(st.integers(1, 9)),
        d_v=draw(st.integers(1, 10)),
        max_size=(draw(st.none() | sizes), draw(st.none() | sizes)),
        channels_last=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
    valid = st.tuples(st.integers(0, height + 1), st.integers(0, width + 1))
    valid_sizes = draw(st.none() | st.lists(valid, min_size=batch, max_size=batch))
    dtype = draw(st.sampled_from([torch.int32, torch.int64]))
    valid_size = None if valid_sizes is None else torch.tensor(valid_sizes).view(batch, 2).to(dtype)
    return shape, dict(valid_size=valid_size, scale=draw(st.sampled_from([None, 0.4, 1.3])))


@built
@pytest.mark.parametrize("name", SETS)
@given(problem=problems())
@settings(max_examples=250, deadline=None, derandomize=True)
def test_agrees_with_dense(random_inputs, name, problem):
    shape, arguments = problem
    with patch.object(native, "instruction_set", SETS.index(name)):
        assert_is_dense(random_inputs(**shape), **arguments)


# (height, width, d_k, d_v): several chunks of keys and segments of queries; every remainder of the
# channels; deeper than what registers hold; single rows and columns
SHAPES = [
    (33, 40, 7, 3),
    (25, 42, 20, 3),
    (20, 20, 13, 6),
    (10, 10, 64, 33),
    (9, 11, 15, 7),
    (1, 130, 4, 1),
    (130, 1, 5, 2),
]


@built
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("height, width, d_k, d_v", SHAPES)
def test_agrees_with_dense_on_larger_maps(
    random_inputs, use_set, name, number, height, width, d_k, d_v
):
    use_set(name)
    torch.set_num_threads(number)
    valid_size = torch.tensor([[height, width], [max(1, height - 3), max(1, width // 2)]])
    inputs = random_inputs(2, 2, height, width, d_k=d_k, d_v=d_v)
    assert_is_dense(inputs, valid_size=valid_size)


@built
@pytest.mark.parametrize("name", SETS)
def test_any_strides(random_inputs, use_set, name):
    """Of the arguments and of the output's gradient: expanded, transposed, every second."""
    use_set(name)
    q, k, v, rel_h, rel_w = to(torch.float32, random_inputs(2, 2, 5, 6, d_k=4, d_v=3))
    q = q.detach()[:1].expand(3, -1, -1, -1, -1)
    k = k.detach().transpose(2, 3).contiguous().transpose(2, 3)[:1].repeat(3, 1, 1, 1, 1)
    v = torch.randn(3, 2, 5, 12, 6)[:, :, :, ::2, ::2]
    rel_h, rel_w = rel_h.detach().t().contiguous().t(), rel_w.detach().repeat(1, 2)[:, ::2]
    inputs = [x.requires_grad_() for x in (q, k, v, rel_h, rel_w)]
    grad = torch.randn(1).expand(3, 2, 5, 6, 3)
    exact = to(torch.float64, inputs)
    found = torch.autograd.grad(relative_attention_2d(*inputs, backend="native"), inputs, grad)
    out = relative_attention_2d(*exact, backend="dense")
    for x, y in zip(found, torch.autograd.grad(out, exact, grad.double())):
        assert (x.double() - y).abs().max() <= 1e-5 * max(y.abs().max(), 1.0)


@built
@pytest.mark.parametrize("name", SETS)
def test_numbers_that_are_none_are_not_lost(random_inputs, use_set, name):
    use_set(name)
    for argument in range(3):
        inputs = [x.detach().float() for x in random_inputs(1, 2, 6, 7)]
        inputs[argument][0, 1, 2, 3] = torch.nan
        out = relative_attention_2d(*inputs, backend="native")
        assert torch.isfinite(out[:, 0]).all()
        row = out[0, 1, 2, 3] if argument == 0 else out[0, 1]
        assert row.isnan().all()


@built
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("size", [1e4, 1e9, 1e18])
def test_huge_logits(use_set, name, size):
    """The largest takes all the weight."""
    use_set(name)
    q = torch.ones(1, 1, 1, 40, 1)
    k = size * torch.linspace(-1, 1, 40).view(1, 1, 1, 40, 1)
    v = torch.arange(40.0).view(1, 1, 1, 40, 1)
    out = relative_attention_2d(q, k, v, backend="native")
    torch.testing.assert_close(out, torch.full_like(out, 39.0))


@built
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_same_number_of_threads_makes_the_same_bits(random_inputs, number):
    torch.set_num_threads(number)
    inputs = to(torch.float32, random_inputs(2, 3, 30, 31, d_k=7))
    valid_size = torch.tensor([[30, 31], [11, 12]])
    first = results(inputs, "native", valid_size=valid_size)
    for _ in range(5):
        for x, y in zip(first, results(inputs, "native", valid_size=valid_size)):
            assert torch.equal(x, y)


@built
def test_adds_up_the_images_gradients_in_single_precision(random_inputs):
    """In bfloat16, beside the first image's, the others' gradients of the tables would be lost."""
    inputs = [x.detach() for x in random_inputs(1, 1, 3, 4, dtype=torch.bfloat16)]
    weight = torch.tensor([256.0] + 64 * [1.0]).view(-1, 1, 1, 1, 1)
    found = []
    for dtype, backend in ((torch.bfloat16, "native"), (torch.float64, "dense")):
        maps = [x.to(dtype).expand(65, -1, -1, -1, -1) for x in inputs[:3]]
        tables = [x.to(dtype).requires_grad_() for x in inputs[3:]]
        out = relative_attention_2d(*maps, *tables, backend=backend)
        found.append(torch.autograd.grad((out * weight.to(dtype)).sum(), tables))
    for x, y in zip(*found):
        assert (x.double() - y).abs().max() <= 2**-7 * y.abs().max()


@built
@pytest.mark.parametrize("valid_size", [None, [[3, 4], [0, 0]]], ids=["whole", "padded"])
def test_operators_are_well_formed(random_inputs, valid_size):
    """PyTorch's own check: schema, fake tensors with their strides, dynamic shapes."""
    inputs = [x.detach().float() for x in random_inputs(2, 1, 3, 4)]
    valid_size = None if valid_size is None else torch.tensor(valid_size)
    arguments = (*inputs, valid_size, 0.5)
    operators = torch.ops.aa_detection
    torch.library.opcheck(operators.native_attention.default, arguments)
    out, statistics = operators.native_attention(*arguments)
    backward = (torch.ones_like(out), out, statistics, *arguments)
    torch.library.opcheck(operators.native_attention_backward.default, backward)


@built
def test_second_derivative_is_refused(random_inputs):
    inputs = to(torch.float32, random_inputs(1, 1, 2, 3))
    out = relative_attention_2d(*inputs, backend="native")
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative; use backend="dense"'):
        grad.sum().backward()


@built
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_not_wait_for_its_parents_threads(tmp_path):
    code = """
import os, signal
import torch
from aa_detection.attention import relative_attention_2d

torch.set_num_threads(2)
inputs = [torch.randn(1, 8, 20, 20, d, requires_grad=True) for d in (8, 8, 3)]

def results():
    out = relative_attention_2d(*inputs, backend="native")
    return [out, *torch.autograd.grad(out, inputs, torch.ones_like(out))]

expected = results()
torch.randn(2000, 2000) @ torch.randn(2000, 2000)
child = os.fork()
if not child:
    signal.alarm(60)
    same = all(map(torch.equal, results(), expected))
    os._exit(0 if same and torch.get_num_threads() == 2 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)


@built
def test_no_thread_of_its_own(tmp_path):
    """After PyTorch's own parallel work the kernel's makes no further thread."""
    code = """
import os
import torch
from aa_detection.attention import relative_attention_2d

torch.set_num_threads(3)
torch.randn(1 << 22).exp()
before = len(os.listdir("/proc/self/task"))
relative_attention_2d(*(torch.randn(1, 8, 40, 40, d) for d in (8, 8, 3)), backend="native")
print(before, len(os.listdir("/proc/self/task")))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    before, after = map(int, run.stdout.split())
    assert before == after >= 3


@built
def test_memory_is_linear(tmp_path):
    """8 heads of 2304 pixels: 170 MB of logits in float32."""
    code = """
import torch
from aa_detection.attention import native, relative_attention_2d

sizes = []
empty = torch.empty
torch.empty = lambda n, dtype: sizes.append(4 * n / 2**20) or empty(n, dtype=dtype)
torch.set_num_threads(2)
for size in (24, 48):
    inputs = [torch.randn(1, 8, size, size, d, requires_grad=True) for d in (8, 8, 3)]
    inputs += [torch.randn(95, 8, requires_grad=True) for _ in range(2)]
    relative_attention_2d(*inputs, backend="native").sum().backward()
print(*sizes)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    small_forward, small_backward, forward, backward = map(float, run.stdout.split())
    assert forward < 4 * small_forward and backward < 4 * small_backward
    assert backward < 16


# ---- where it cannot be used


@pytest.fixture
def without(monkeypatch):
    """As where the package was installed without a compiler."""
    monkeypatch.setattr(native, "absent", "libnative.so was not built")
    monkeypatch.setattr(native, "library", None)
    functional._log_absent.cache_clear()
    yield
    functional._log_absent.cache_clear()


def test_without_it_auto_is_blocked_and_one_line_says_so(random_inputs, without, caplog):
    q, _, v, *_ = (x.float() for x in random_inputs(1, 8, 13, 15))
    with caplog.at_level(logging.INFO, logger="aa_detection.attention"):
        assert [choose_backend(q, v) for _ in range(3)] == 3 * ["blocked"]
    (line,) = caplog.messages
    assert "native" in line and line.endswith("libnative.so was not built")


def test_without_it_to_ask_for_it_is_an_error(random_inputs, without):
    inputs = [x.float() for x in random_inputs(1, 1, 2, 3)]
    with pytest.raises(RuntimeError, match='^backend "native": libnative.so was not built$'):
        relative_attention_2d(*inputs, backend="native")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dtype": torch.float64}, "it computes in float32, not in torch.float64"),
        ({"device": "meta"}, "it runs on the CPU, q is on meta"),
    ],
)
def test_what_it_does_not_take(options, message):
    inputs = [torch.zeros(1, 1, 2, 3, 4, **options) for _ in range(3)]
    with pytest.raises(RuntimeError, match=f'^backend "native": {message}$'):
        native.native_attention(*inputs, None, None, 1.0, None)


def test_a_missing_library_is_named(tmp_path):
    with pytest.raises(OSError, match="libnative.so was not built; reinstall aa_detection where"):
        native._Library(tmp_path / "libnative.so")


@built
def test_a_library_of_another_version_is_refused(monkeypatch):
    """A checkout whose sources went on while the library stayed."""
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    with pytest.raises(OSError, match="was built from other sources; reinstall aa_detection"):
        native._Library(native.FILE)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_source_compiles_without_a_warning(tmp_path):
    source = native.FILE.with_name("native.cpp")
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", "-fPIC"]
    subprocess.run([*command, "-shared", source, "-o", tmp_path / "native.so"], check=True)
