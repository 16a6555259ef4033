"""Plain checkpoints into augmented networks, and augmented ones back into their like."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from aa_detection.layers import AAConv2d
from aa_detection.models import AttentionSpec, augment
from aa_detection.models.transfer import LoadReport, load_weights

STAGES = ["res2", "res3", "res4"]  # what follows res4 teaches nothing new here
SPEC = AttentionSpec(stages=("res3", "res4"), max_image_size=64)
NETWORKS = [("torchvision", 18), ("torchvision", 50), ("detectron2", 18), ("detectron2", 50)]
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture
def plain_and_augmented(build, randomise_norms):
    """A plain network with trained-looking norms, and an augmented one with weights of its own."""

    def pair(framework, depth, norm="BN"):
        plain = build(framework, depth, norm=norm, stages=STAGES)
        other = copy.deepcopy(plain)
        torch.manual_seed(2)
        for module in other.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight)
        return randomise_norms(plain), augment(other, SPEC)

    return pair


def norm_of(name, framework):
    return f"{name}.norm" if framework == "detectron2" else name.replace("conv", "bn")


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize(("framework", "depth"), NETWORKS)
def test_plain_checkpoint_into_an_augmented_network(plain_and_augmented, framework, depth, norm):
    plain, augmented = plain_and_augmented(framework, depth, norm)
    weights, own = plain.state_dict(), copy.deepcopy(augmented.state_dict())
    report = load_weights(augmented, dict(weights))
    after = augmented.state_dict()

    sliced, fresh = set(), set()
    for name, conv in augmented.named_modules():
        if not isinstance(conv, AAConv2d):
            continue
        kept = len(conv.weight)
        assert torch.equal(conv.weight, weights[f"{name}.weight"][:kept])
        sliced.add(f"{name}.weight")
        for tensor in NORM_TENSORS:
            key = f"{norm_of(name, framework)}.{tensor}"
            if norm == "FrozenBN" and tensor == "bias":
                continue  # the mean of the filters given up is kept
            assert torch.equal(after[key][:kept], weights[key][:kept]), key
            assert torch.equal(after[key][kept:], own[key][kept:]), key
            assert not torch.equal(after[key][kept:], weights[key][kept:]), key
            sliced.add(key)
        for part in ("qkv.weight", "proj.weight", "rel_h", "rel_w"):
            assert torch.equal(after[f"{name}.{part}"], own[f"{name}.{part}"])
            fresh.add(f"{name}.{part}")
    assert len(sliced) == (5 if norm == "BN" else 4) * (4 if depth == 18 else 10)
    for key in after.keys() - sliced - fresh:
        assert torch.equal(after[key], weights[key]), key

    assert set(report.sliced) == sliced
    assert set(report.fresh) == fresh
    assert set(report.loaded) == after.keys() - sliced - fresh
    assert report.unused == []


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize(("framework", "depth"), NETWORKS)
def test_plain_checkpoint_into_added_attention_is_whole(
    build, randomise_norms, framework, depth, norm
):
    plain = randomise_norms(build(framework, depth, norm=norm, stages=STAGES)).eval()
    network = build(framework, depth, norm=norm, stages=STAGES).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(2)
    augment(network, dataclasses.replace(SPEC, merge="add"))
    report = load_weights(network, dict(plain.state_dict()))
    assert set(report.loaded) == plain.state_dict().keys()
    assert (report.sliced, report.unused, report.other_merge) == ([], [], None)
    parts = ("qkv.weight", "proj.weight", "rel_h", "rel_w")
    assert report.fresh and all(name.endswith(parts) for name in report.fresh)
    images = torch.randn(2, 3, 47, 65)
    with torch.no_grad():
        for stage, features in network(images).items():
            assert torch.equal(features, plain(images)[stage]), stage


@pytest.mark.parametrize("value_ratio", [0.25, 0.5, 1])
@pytest.mark.parametrize("theirs", ["concat", "add"])
@pytest.mark.parametrize(("framework", "depth"), [("torchvision", 18), ("detectron2", 50)])
def test_attention_merged_otherwise_stays_out(
    build, randomise_norms, framework, depth, theirs, value_ratio
):
    """Not even what fits by its shape: a norm of half filters and half attention, for one."""

    def network(merge):
        spec = dataclasses.replace(SPEC, merge=merge, value_ratio=value_ratio)
        return augment(build(framework, depth, stages=STAGES), spec)

    source = randomise_norms(network(theirs))
    model = network("add" if theirs == "concat" else "concat")
    own = copy.deepcopy(model.state_dict())
    report = load_weights(model, source.state_dict())
    assert report.other_merge == theirs
    layers = [name for name, m in model.named_modules() if isinstance(m, AAConv2d)]
    theirs_alone = {f"{prefix}." for name in layers for prefix in (name, norm_of(name, framework))}
    left_out = {key for key in own if key.startswith(tuple(theirs_alone))}
    for key in left_out:
        assert torch.equal(model.state_dict()[key], own[key]), key
    for key in own.keys() - left_out:
        assert torch.equal(model.state_dict()[key], source.state_dict()[key]), key
    assert {f"{name}.proj.weight" for name in layers} <= set(report.unused)
    assert f"{norm_of(layers[0], framework)}.weight" in report.unused
    # and its own kind is not mistaken for the other
    assert load_weights(network(theirs), source.state_dict()).other_merge is None


@pytest.mark.parametrize(("framework", "depth"), NETWORKS)
def test_augmented_checkpoint_comes_back_exactly(plain_and_augmented, framework, depth):
    _, augmented = plain_and_augmented(framework, depth)
    weights = copy.deepcopy(augmented.state_dict())
    with torch.no_grad():
        for tensor in augmented.state_dict().values():
            tensor.zero_()
    report = load_weights(augmented, dict(weights))
    assert report == LoadReport(loaded=list(weights))
    for key, tensor in augmented.state_dict().items():
        assert torch.equal(tensor, weights[key]), key


@pytest.mark.parametrize(("framework", "depth"), NETWORKS)
def test_plain_checkpoint_into_aw_and_gates(build, randomise_norms, framework, depth):
    weights = randomise_norms(build(framework, depth, stages=STAGES)).state_dict()
    network = build(framework, depth, stages=STAGES)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
    augment(network, AttentionSpec("aw", "cbam", stages=("res3", "res4")))
    report = load_weights(network, dict(weights))
    assert set(report.loaded) == weights.keys()
    assert (report.sliced, report.unused) == ([], [])
    for key in weights:
        assert torch.equal(network.state_dict()[key], weights[key]), key
    endings = (".reduce.", ".restore.", ".gate.")
    assert report.fresh and all(any(part in key for part in endings) for key in report.fresh)
    blocks = 4 if depth == 18 else 10
    assert len(report.fresh) == blocks * (4 + 6)


def test_biases_are_cut_with_their_filters():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 16, 3))
    model = nn.Sequential(AAConv2d(3, 16, 3, num_heads=2, value_ratio=0.25, max_size=4))
    report = load_weights(model, plain.state_dict())
    assert report.sliced == ["0.weight", "0.bias"]
    assert torch.equal(model[0].weight, plain[0].weight[:12])
    assert torch.equal(model[0].bias, plain[0].bias[:12])


def test_layer_without_convolution_takes_nothing():
    plain = nn.Sequential(nn.Conv2d(3, 16, 3))
    model = nn.Sequential(AAConv2d(3, 16, 3, num_heads=2, value_ratio=1, max_size=4))
    report = load_weights(model, plain.state_dict())
    assert (report.sliced, report.loaded) == ([], [])
    assert report.unused == ["0.weight", "0.bias"]


def rows(size):
    """A table of ``2 · size − 1`` rows that hold their distance."""
    return torch.arange(-(size - 1.0), size)[:, None].expand(-1, 2).clone()


@pytest.mark.parametrize("theirs", [1, 2, 5, 6, 9])
def test_tables_are_reindexed_by_distance(theirs):
    conv = AAConv2d(8, 20, 3, num_heads=2, value_ratio=0.2, max_size=(5, 7))
    weights = conv.state_dict() | {"rel_h": rows(theirs), "rel_w": rows(theirs)}
    report = load_weights(conv, weights)
    changed = [name for name, size in (("rel_h", 5), ("rel_w", 7)) if size != theirs]
    assert report.reindexed == changed
    assert not (report.fresh or report.unused or report.sliced)
    reach = theirs - 1
    assert torch.equal(conv.rel_h[:, 0], torch.arange(-4.0, 5).clamp(-reach, reach))
    assert torch.equal(conv.rel_w[:, 1], torch.arange(-6.0, 7).clamp(-reach, reach))
    assert len(weights["rel_h"]) == 2 * theirs - 1  # the caller's are left alone


def test_a_reindexed_layer_computes_what_its_source_does():
    """On maps that the smaller table covers, and beyond it where it clamps."""
    torch.manual_seed(0)
    source = AAConv2d(8, 20, 3, padding=1, num_heads=2, value_ratio=0.2, max_size=4)
    larger = AAConv2d(8, 20, 3, padding=1, num_heads=2, value_ratio=0.2, max_size=9)
    load_weights(larger, source.state_dict())
    x = torch.randn(2, 8, 8, 7)
    torch.testing.assert_close(larger(x), source(x))
    back = AAConv2d(8, 20, 3, padding=1, num_heads=2, value_ratio=0.2, max_size=4)
    load_weights(back, larger.state_dict())
    torch.testing.assert_close(back(x), source(x))


@pytest.mark.parametrize("shape", [(8, 2), (9, 3), (9,)], ids=str)
def test_tables_that_are_none_stay_out(shape):
    conv = AAConv2d(8, 20, 3, num_heads=2, value_ratio=0.2, max_size=5)
    weights = {"rel_h": torch.ones(shape)}
    before = conv.rel_h.clone()
    report = load_weights(conv, weights)
    assert report.unused == ["rel_h"] and report.reindexed == []
    assert report.misfits == {"rel_h": (torch.Size(shape), torch.Size([9, 2]))}
    assert torch.equal(conv.rel_h, before)


@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (16, 3, 1, 1), (20, 3, 3, 3)], ids=str)
def test_tensors_of_another_shape_stay_out(shape):
    torch.manual_seed(0)
    model = nn.Sequential(AAConv2d(3, 16, 3, num_heads=2, max_size=4, bias=False), nn.Linear(2, 2))
    own = copy.deepcopy(model.state_dict())
    weights = {
        "0.weight": torch.ones(shape),
        "1.weight": torch.ones(2, 3),
        "1.bias": torch.ones(2),
        "head.weight": torch.ones(1),
    }
    report = load_weights(model, weights)
    assert report.loaded == ["1.bias"]
    assert report.sliced == []
    assert sorted(report.unused) == ["0.weight", "1.weight", "head.weight"]
    assert set(report.fresh) == own.keys() - {"1.bias"}
    for key in report.fresh:
        assert torch.equal(model.state_dict()[key], own[key]), key


def test_report_in_lines():
    report = LoadReport(
        loaded=["a", "b"],
        sliced=["res3.0.conv2.weight", "res3.0.conv2.norm.bias", "res3.11.conv2.weight"],
        reindexed=["res3.0.conv2.rel_h"],
        fresh=["head.cls_subnet.0.weight", "head.cls_subnet.2.weight", "d"],
        unused=["d"],
        misfits={"d": (torch.Size([2, 3]), torch.Size([4]))},
        backbone_share=0.98765,
    )
    assert list(report.lines()) == [
        "weights: 2 of 9 tensors loaded, 3 sliced, 1 re-indexed, 3 fresh; 1 of the checkpoint "
        "unused; 98.8% of the backbone's parameters loaded",
        "weights sliced: res3.*.conv2 (3)",
        "weights reindexed: res3.*.conv2 (1)",
        "weights fresh: head.cls_subnet.* (2), d (1)",
        "weights unused: d (1)",
        "weights misfit: d is (2, 3), the model's (4,)",
    ]
    assert list(LoadReport(loaded=["a"]).lines()) == [
        "weights: 1 of 1 tensors loaded, 0 sliced, 0 re-indexed, 0 fresh; 0 of the checkpoint "
        "unused"
    ]
