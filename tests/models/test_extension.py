"""Attention of one's own, by a name in CONVS, GATES and BACKENDS."""

import pytest
import torch
from torch import nn

from aa_detection import relative_attention_2d
from aa_detection.attention import BACKENDS
from aa_detection.attention.dense import dense_attention
from aa_detection.layers import GATES
from aa_detection.models import CONVS, AttentionSpec, augment


class Noted(nn.Conv2d):
    """A plain convolution that notes the real sizes it was told."""

    def __init__(self, *args, norm=None, activation=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation
        self.valid_size = None
        self.told = []

    def forward(self, x):
        self.told.append(self.valid_size)
        out = super().forward(x)
        out = out if self.norm is None else self.norm(out)
        return out if self.activation is None else self.activation(out)


class Half(nn.Module):
    def __init__(self, channels, reduction):
        super().__init__()
        self.valid_size = None

    def forward(self, x):
        return x / 2


@pytest.fixture
def registered(monkeypatch):
    """The calls of "noted", of which there is one for every convolution."""
    calls = []

    def make(spec, stage, image_stride, **arguments):
        calls.append((stage, image_stride))
        return Noted(**arguments)

    monkeypatch.setitem(CONVS, "noted", make)
    monkeypatch.setitem(GATES, "half", Half)
    return calls


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
@torch.no_grad()
def test_a_registered_convolution_stands_for_the_one_it_replaces(build, framework, registered):
    network = build(framework, 50, stages=("res3", "res4")).eval()
    batch = torch.ones(2, 3, 64, 96)
    batch[1, :, 33:], batch[1, :, :, 65:] = 0, 0
    expected = network(batch[:1])
    augment(network, AttentionSpec("noted", stages=["res3", "res4"]))
    assert registered == [("res3", 8)] * 4 + [("res4", 16)] * 6

    alone = network(batch[:1])
    for stage in expected:  # the weights, the norm and the activation are those it had
        torch.testing.assert_close(alone[stage], expected[stage])
    network(batch)
    convs = [module for module in network.modules() if isinstance(module, Noted)]
    first, last = convs[0], convs[-1]
    assert first.told[0] is None and last.told[0] is None  # nothing was padded
    stride_in_3x3 = first.stride == (2, 2)
    rows = 9 if stride_in_3x3 else 5  # 33 rows at a stride of 4 or 8
    assert first.told[1].tolist()[1][0] == rows
    assert last.told[1].tolist() == [[4, 6], [3, 5]]


@torch.no_grad()
def test_a_registered_gate_weighs_the_branch(build, registered):
    network = build("torchvision", 18, stages=("res2",)).eval()
    last = network.layer1[-1]
    branch, gated = [], []  # copies: the block adds its shortcut in place
    last.bn2.register_forward_hook(lambda module, args, out: branch.append(out.clone()))
    augment(network, AttentionSpec("", "half", stages=["res2"]))
    last.gate.register_forward_hook(lambda module, args, out: gated.append(out.clone()))
    network(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(gated[0], branch[0] / 2)


def test_a_registered_backend_is_called(monkeypatch):
    monkeypatch.setitem(BACKENDS, "twice", lambda *arguments: 2 * dense_attention(*arguments))
    q, k, v = torch.rand(3, 1, 2, 3, 4, 5).unbind()
    expected = 2 * relative_attention_2d(q, k, v, backend="dense")
    torch.testing.assert_close(relative_attention_2d(q, k, v, backend="twice"), expected)
    assert AttentionSpec(backend="twice").backend == "twice"


@pytest.mark.parametrize(
    ("field", "known"), [("conv", "'', 'aa', 'aw'"), ("gate", "'', 'se', 'cbam'")]
)
def test_what_is_not_registered_is_refused(field, known):
    with pytest.raises(ValueError, match=f"^{field} must be among {known}, got 'noted'$"):
        AttentionSpec(**{field: "noted"})


def test_an_error_of_the_successor_names_the_convolution(build, monkeypatch):
    def refuse(spec, stage, image_stride, **arguments):
        raise ValueError("num_heads must be prime")

    monkeypatch.setitem(CONVS, "refused", refuse)
    with pytest.raises(ValueError, match=r"^num_heads must be prime \(res3\.conv1\)$"):
        augment(build("torchvision", 18), AttentionSpec("refused"))
