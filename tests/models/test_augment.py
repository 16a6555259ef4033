"""What augment() replaces, what it keeps, what it refuses."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

from aa_detection.layers import CBAM, AAConv2d, AWConv2d, SqueezeExcitation
from aa_detection.models import AttentionSpec, augment

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
FOUR_STAGES = ("res2", "res3", "res4", "res5")
# the paper's ImageNet networks
IMAGENET = AttentionSpec(max_image_size=224, min_key_depth_per_head=20)
IMAGENET_34 = dataclasses.replace(IMAGENET, key_ratio=0.25, value_ratio=0.25)
CONVS = {"": nn.Conv2d, "aa": AAConv2d, "aw": AWConv2d}
GATES = {"": type(None), "se": SqueezeExcitation, "cbam": CBAM}
NETWORKS = [
    ("torchvision", 18),
    ("torchvision", 34),
    ("torchvision", 152),
    ("torchvision", "wide_resnet50_2"),
    ("detectron2", 34),
    ("detectron2", 101),
]


def attention_names(network):
    return [name for name, module in network.named_modules() if isinstance(module, AAConv2d)]


def snapshot(network):
    """All that a failed call must leave alone."""
    modules = [
        (name, module, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in network.named_modules()
    ]
    return modules, copy.deepcopy(network.state_dict())


def assert_unchanged(network, before):
    modules, state = before
    assert snapshot(network)[0] == modules
    assert network.state_dict().keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.mark.parametrize("stages", [("res3", "res4", "res5"), ("res5",), ("res2", "res4")], ids=str)
@pytest.mark.parametrize(
    ("framework", "depth"),
    [
        ("torchvision", 18),
        ("torchvision", 34),
        ("torchvision", 50),
        ("torchvision", 101),
        ("detectron2", 18),
        ("detectron2", 50),
    ],
)
def test_one_convolution_of_every_block_is_replaced(build, framework, depth, stages):
    with torch.device("meta"):
        network = build(framework, depth)
        assert augment(network, AttentionSpec(stages=stages)) is network
    conv = "conv1" if depth < 50 else "conv2"
    expected = []
    for number, (stage, blocks) in enumerate(zip(FOUR_STAGES, BLOCKS[depth], strict=True), 1):
        if stage in stages:
            prefix = stage if framework == "detectron2" else f"layer{number}"
            expected += [f"{prefix}.{block}.{conv}" for block in range(blocks)]
    assert attention_names(network) == expected


@pytest.mark.parametrize(
    ("framework", "options"),
    [
        ("torchvision", {}),
        ("detectron2", {}),
        ("detectron2", {"stride_in_1x1": True}),
    ],
    ids=["torchvision", "detectron2", "detectron2-stride_in_1x1"],
)
def test_distance_tables_fit_the_maps_of_the_largest_image(build, framework, options):
    with torch.device("meta"):
        spec = AttentionSpec(stages=FOUR_STAGES, max_image_size=333)
        network = augment(build(framework, 50, **options), spec)
    sizes = {name: network.get_submodule(name).max_size for name in attention_names(network)}
    strides = {"2": 4, "3": 16, "4": 16, "5": 32}  # res3 is pooled
    for name, size in sizes.items():
        stage = name[3] if framework == "detectron2" else str(int(name[5]) + 1)
        expected = -(-333 // strides[stage])
        assert size == (expected, expected), name


@pytest.mark.parametrize(
    ("depth", "spec", "published", "counted"),
    [
        # Bello et al., tables of section 4.2, in millions; and by hand from the paper's rules
        (34, IMAGENET_34, 20.7, 20.75),
        (50, IMAGENET, 25.8, 25.81),
        (101, IMAGENET, 45.4, 45.39),
        (152, IMAGENET, 61.6, 61.61),
    ],
)
def test_parameter_counts_are_the_published(build, depth, spec, published, counted):
    with torch.device("meta"):
        network = augment(build("torchvision", depth), spec)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert abs(millions - published) < 0.1
    assert round(millions, 2) == counted


@pytest.mark.parametrize(
    ("depth", "millions"), [(34, 23.39), (50, 26.95), (101, 47.56), (152, 64.62)]
)
def test_parameter_counts_of_added_attention(build, depth, millions):
    """By hand: the plain network, and of each layer q, k and v, proj to F_out, and the tables."""
    spec = dataclasses.replace(IMAGENET_34 if depth == 34 else IMAGENET, merge="add")
    with torch.device("meta"):
        plain = build("torchvision", depth)
        count = sum(p.numel() for p in plain.parameters())
        network = augment(build("torchvision", depth), spec)
    basic = depth == 34
    for width, blocks, first_input, side in zip(
        (128, 256, 512), BLOCKS.get(depth, (3, 8, 36, 3))[1:], (64, 128, 256), (14, 14, 7)
    ):
        for block in range(blocks):
            inputs = first_input if basic and block == 0 else width
            value_depth = width // (4 if basic else 10) // 8 * 8
            key_depth = max(8 * 20, -(-width // (4 if basic else 5) // 8) * 8)
            count += inputs * (2 * key_depth + value_depth) + value_depth * width
            count += 2 * (2 * side - 1) * (key_depth // 8)
    assert sum(p.numel() for p in network.parameters()) == count
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    ("framework", "depth", "conv"),
    [(*network, conv) for network in NETWORKS for conv in CONVS]
    + [("torchvision", "resnext50_32x4d", conv) for conv in ("", "aw")],
)
def test_convolutions_and_gates_compose(build, framework, depth, conv, gate):
    with torch.device("meta"):
        spec = AttentionSpec(conv=conv, gate=gate, stages=("res3", "res5"))
        network = augment(build(framework, depth), spec)
    for name, module in network.named_modules():
        if not hasattr(module, "conv2"):
            continue
        changed = name.startswith(("res3", "res5", "layer2", "layer4"))
        spatial = module.conv2 if hasattr(module, "conv3") else module.conv1
        assert isinstance(spatial, CONVS[conv if changed else ""]), name
        assert isinstance(getattr(module, "gate", None), GATES[gate if changed else ""]), name


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
@pytest.mark.parametrize("gate", ["se", "cbam"])
@torch.no_grad()
def test_gate_weighs_the_branch_before_the_addition(build, randomise_norms, framework, depth, gate):
    network = randomise_norms(build(framework, depth, stages=["res2", "res3"]).eval())
    plain = copy.deepcopy(network)
    augment(network, AttentionSpec(conv="", gate=gate, stages=("res3",)))
    name = "res3" if framework == "detectron2" else "layer2"
    block, plain_block = getattr(network, name)[0], getattr(plain, name)[0]
    x = torch.randn(2, 64 if depth == 18 else 256, 8, 10)

    out = {}
    last = "conv3" if depth == 50 else "conv2"
    end = last if framework == "detectron2" else last.replace("conv", "bn")
    getattr(plain_block, end).register_forward_hook(
        lambda *call: out.update(branch=call[2].clone())
    )
    shortcut = plain_block.shortcut if framework == "detectron2" else plain_block.downsample
    plain_block(x)
    expected = (block.gate(out["branch"]) + shortcut(x)).relu()
    assert not torch.equal(expected, plain_block(x))
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "spec", "millions"),
    [
        # published 28.1 and 25.72; 25.56 is ResNet-50
        (50, AttentionSpec(conv="", gate="se", stages=FOUR_STAGES), 28.09),
        (50, AttentionSpec(conv="aw", stages=FOUR_STAGES), 25.72),
        (50, AttentionSpec(conv="aw", gate="se", stages=FOUR_STAGES), 28.25),
        (50, AttentionSpec(conv="", gate="cbam", stages=FOUR_STAGES), 28.09),
    ],
)
def test_parameter_counts_of_gates_and_aw(build, depth, spec, millions):
    with torch.device("meta"):
        network = augment(build("torchvision", depth), spec)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(("framework", "depth"), [("torchvision", 18), ("detectron2", 50)])
def test_aw_and_gate_keep_every_weight(build, framework, depth):
    network = build(framework, depth, norm="FrozenBN")
    before = copy.deepcopy(network.state_dict())
    augment(network, AttentionSpec(conv="aw", gate="se", aw_reduction=8, gate_reduction=4))
    after = network.state_dict()
    for name in before:
        assert torch.equal(after[name], before[name]), name
    new = {name.split(".", 2)[2] for name in after.keys() - before.keys()}
    parts = {name.partition(".")[0] for name in new}
    conv, norm = ("conv1", "bn1") if depth == 18 else ("conv2", "conv2")
    assert parts == {conv, norm, "gate"}  # the norm counts batches now
    layers = [m for m in network.modules() if isinstance(m, (AWConv2d, SqueezeExcitation))]
    for layer in layers:
        reduction = 8 if isinstance(layer, AWConv2d) else 4
        reduce = layer.reduce if isinstance(layer, AWConv2d) else layer.fc1
        assert reduce.in_channels == reduction * reduce.out_channels


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
def test_kept_filters_norms_and_everything_else_stay(build, framework, depth):
    network = build(framework, depth)
    before = copy.deepcopy(network.state_dict())
    modules = dict(network.named_modules())
    augment(network, AttentionSpec())
    after = network.state_dict()

    names = attention_names(network)
    for name in names:
        conv, old = network.get_submodule(name), modules[name]
        assert conv.value_depth > 0
        kept = old.out_channels - conv.value_depth
        assert torch.equal(conv.weight, before[f"{name}.weight"][:kept])
        assert (conv.stride, conv.padding, conv.dilation, conv.bias) == (
            old.stride,
            old.padding,
            old.dilation,
            None,
        )
        assert conv.pool == (name.startswith(("res3", "layer2")))
        assert conv.norm is getattr(old, "norm", None)
        assert conv.activation is getattr(old, "activation", None)

    replaced = {f"{name}.weight" for name in names}
    assert before.keys() <= after.keys()
    for name in before.keys() - replaced:
        assert torch.equal(after[name], before[name]), name
    new = {name.rpartition(".")[2] for name in after.keys() - before.keys()}
    assert new <= {"weight", "rel_h", "rel_w"}
    assert all(name.startswith(tuple(names)) for name in after.keys() - before.keys())
    for name, module in modules.items():
        if not name.startswith(tuple(names)):
            assert network.get_submodule(name) is module


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
@torch.no_grad()
def test_frozen_norms_behind_attention_stay_frozen(build, randomise_norms, framework, depth):
    """Kept filters as before; of the others their mean, the norm's bias, until attention moves."""
    options = {"freeze_at": 2} if framework == "detectron2" else {}
    network = build(framework, depth, norm="FrozenBN", stages=["res3", "res4"], **options)
    plain = copy.deepcopy(randomise_norms(network.eval()))
    augment(network, AttentionSpec(stages=("res3", "res4")))

    def conv_and_norm(network, name):
        parent, _, conv = name.rpartition(".")
        conv = network.get_submodule(name)
        beside = getattr(network.get_submodule(parent), name[-5:].replace("conv", "bn"), None)
        return conv, conv.norm if beside is None else beside

    assert attention_names(network)
    for name in attention_names(network):
        (conv, norm), (old_conv, old_norm) = (conv_and_norm(n, name) for n in (network, plain))
        assert type(norm) is type(old_norm) and type(norm).__name__ == "FrozenBatchNorm2d"
        x = torch.randn(2, conv.in_channels, 6, 5)

        def output(conv, norm, x=x):
            return conv(x) if framework == "detectron2" else norm(conv(x))  # where it is within

        out, expected = output(conv, norm), output(old_conv, old_norm)
        kept = len(conv.weight)
        assert kept < conv.out_channels
        torch.testing.assert_close(out[:, :kept], expected[:, :kept], rtol=1e-5, atol=1e-5)
        mean = old_norm.bias[kept:, None, None].expand_as(out[:, kept:])
        if framework == "detectron2" and conv.activation is not None:
            mean = conv.activation(mean)
        assert torch.equal(out[:, kept:], mean)
        torch.nn.init.xavier_uniform_(conv.proj.weight)
        assert not torch.equal(output(conv, norm)[:, kept:], mean)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@torch.no_grad()
def test_frozen_norms_behind_other_convolutions_become_trainable(build, randomise_norms, norm):
    network = randomise_norms(build("torchvision", 18, norm=norm).eval())
    plain = copy.deepcopy(network)
    augment(network, AttentionSpec("aw", stages=("res5",)))
    new, old = network.layer4[0].bn1, plain.layer4[0].bn1
    assert type(new) is nn.BatchNorm2d and new.weight.requires_grad and new.eps == old.eps
    assert not new.training, "a network in evaluation must stay in evaluation"
    x = torch.randn(2, 512, 6, 5)
    torch.testing.assert_close(new(x), old(x))
    assert type(network.layer3[0].bn1) is type(plain.layer3[0].bn1)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
@torch.no_grad()
def test_added_attention_starts_as_the_plain_network(
    build, randomise_norms, framework, depth, norm
):
    """Filters, frozen norms and names stay, and so do the features, bit for bit."""
    options = {"freeze_at": 2} if framework == "detectron2" else {}
    stages = ["res2", "res3", "res4", "res5"]
    network = randomise_norms(build(framework, depth, norm=norm, stages=stages, **options).eval())
    plain = copy.deepcopy(network)
    augment(network, AttentionSpec(merge="add", mask_padding="none", max_image_size=64))
    assert len(attention_names(network)) == sum(BLOCKS[depth][1:])
    before, after = plain.state_dict(), network.state_dict()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    new = {name.rpartition("conv")[2][2:] for name in after.keys() - before.keys()}
    assert new == {"qkv.weight", "proj.weight", "rel_h", "rel_w"}
    frozen, frozen_before = (
        [name for name, m in n.named_modules() if type(m).__name__ == "FrozenBatchNorm2d"]
        for n in (network, plain)
    )
    assert frozen == frozen_before
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trainable - {name for name, p in plain.named_parameters() if p.requires_grad} == (
        after.keys() - before.keys()
    )
    images = torch.randn(2, 3, 47, 65)
    expected = plain(images)
    for stage, features in network(images).items():
        assert torch.equal(features, expected[stage]), stage


def test_value_ratio_0_leaves_a_frozen_norm_frozen(build):
    network = build("torchvision", 18, norm="FrozenBN")
    before = copy.deepcopy(network.state_dict())
    augment(network, AttentionSpec(value_ratio=0))
    assert_unchanged(network, (snapshot(network)[0], before))


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_is_kept(build, training):
    network = build("torchvision", 18, norm="FrozenBN").train(training)
    augment(network, AttentionSpec())
    assert {module.training for module in network.modules()} == {training}


@pytest.mark.parametrize("mask", ["auto", "attention", "none"])
def test_no_attention_changes_nothing(build, mask):
    network = build("torchvision", 18)
    before = snapshot(network)
    assert augment(network, AttentionSpec(conv="", mask_padding=mask)) is network
    assert_unchanged(network, before)


def freeze_layer2(network):
    network.layer2.requires_grad_(False)


def group_the_last(network):
    network.layer4[1].conv1 = nn.Conv2d(512, 512, 3, padding=1, groups=2)


def transpose_the_last(network):
    network.layer4[1].conv1 = nn.ConvTranspose2d(512, 512, 3, padding=1)


@pytest.mark.parametrize(
    ("change", "spec", "error", "message"),
    [
        (freeze_layer2, {}, ValueError, "stages: res3 is frozen"),
        (group_the_last, {}, ValueError, r"^conv: .* got 2 groups: .* \(res5\.conv1\)$"),
        (transpose_the_last, {}, TypeError, r"res5\.conv1 must be a Conv2d, got ConvTranspose2d"),
        (
            None,
            {"stages": ("res5", "res2"), "num_heads": 96},
            ValueError,
            r"num_heads must be at most out_channels = 64, got 96 \(res2\.conv1\)",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(build, change, spec, error, message):
    network = build("torchvision", 18)
    if change:
        change(network)
    before = snapshot(network)
    with pytest.raises(error, match=message) as raised:
        augment(network, AttentionSpec(**spec))
    assert "\n" not in str(raised.value)
    assert_unchanged(network, before)


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
def test_missing_stage_is_refused_and_changes_nothing(build, framework):
    network = build(framework, 18, stages=["res2", "res4"])
    before = snapshot(network)
    with pytest.raises(ValueError, match="stages: this ResNet has no res5, only res2, res3, res4"):
        augment(network, AttentionSpec())
    assert_unchanged(network, before)


def test_frozen_stage_of_detectron2_is_refused(build):
    network = build("detectron2", 50, norm="FrozenBN", freeze_at=3)
    before = snapshot(network)
    with pytest.raises(ValueError, match="stages: res3 is frozen"):
        augment(network, AttentionSpec())
    assert_unchanged(network, before)
    augment(network, AttentionSpec(stages=("res4", "res5")))


def test_grouped_convolutions_are_refused(build):
    with torch.device("meta"):
        network = build("torchvision", "resnext50_32x4d")
    with pytest.raises(ValueError, match=r"^conv: .* got 32 groups: .* \(res3\.conv2\)$"):
        augment(network, AttentionSpec())
    assert attention_names(network) == []


@pytest.mark.parametrize("gate", ["se", "cbam"])
def test_gating_twice_is_refused_and_changes_nothing(build, gate):
    network = augment(build("torchvision", 18), AttentionSpec(conv="", gate=gate))
    before = snapshot(network)
    with pytest.raises(TypeError, match="^res3 must have no gate yet, got "):
        augment(network, AttentionSpec(conv="", gate="se"))
    assert_unchanged(network, before)


@pytest.mark.parametrize("spec", [{"conv": "aw"}, {"conv": "", "gate": "se"}], ids=str)
def test_frozen_stage_is_refused_for_every_kind(build, spec):
    network = build("torchvision", 18)
    freeze_layer2(network)
    before = snapshot(network)
    with pytest.raises(ValueError, match="stages: res3 is frozen"):
        augment(network, AttentionSpec(**spec))
    assert_unchanged(network, before)


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
def test_augmenting_twice_is_refused_and_changes_nothing(build, framework):
    network = augment(build(framework, 18), AttentionSpec())
    before = snapshot(network)
    with pytest.raises(TypeError, match=r"res3\.conv1 must be a Conv2d, got AAConv2d"):
        augment(network, AttentionSpec())
    assert_unchanged(network, before)


@pytest.mark.parametrize("no_resnet", [nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Identity()])
def test_what_is_no_resnet_is_refused(no_resnet):
    with pytest.raises(TypeError, match=f"expected a ResNet .* got {type(no_resnet).__name__}"):
        augment(no_resnet, AttentionSpec())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv": "AA"}, "conv must be among '', 'aa', 'aw', got 'AA'"),
        ({"gate": "eca"}, "gate must be among '', 'se', 'cbam', got 'eca'"),
        ({"aw_reduction": 0}, "aw_reduction must be at least 1, got 0"),
        ({"gate_reduction": -1}, "gate_reduction must be at least 1, got -1"),
        ({"stages": "res3"}, "stages must be a list of stages, got the text 'res3'"),
        ({"stages": ["res3", "res6"]}, "stages must be among res2, res3, res4, res5, got 'res6'"),
        ({"pool_stages": "res3"}, "pool_stages must be a list of stages, got the text 'res3'"),
        ({"pool_stages": ("layer2",)}, "pool_stages must be among .*, got 'layer2'"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_heads": -1}, "num_heads must be at least 1, got -1"),
        ({"key_ratio": 0.0}, "key_ratio must be above 0"),
        ({"key_ratio": 1.01}, "key_ratio must be above 0 and at most 1"),
        ({"value_ratio": -0.1}, "value_ratio must be between 0 and 1"),
        ({"value_ratio": 1.1}, "value_ratio must be between 0 and 1"),
        ({"min_key_depth_per_head": -1}, "min_key_depth_per_head must not be negative"),
        ({"merge": "sum"}, "merge must be among concat, add, got 'sum'"),
        ({"mask_padding": True}, "mask_padding must be among auto, none, .*, all, got True"),
        ({"size_divisibility": 0}, "size_divisibility must be at least 1, got 0"),
        ({"max_image_size": 0}, "max_image_size must be at least 1, got 0"),
    ],
)
def test_wrong_spec_is_refused_by_field(fields, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        AttentionSpec(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("merge", ["concat", "add"])
@pytest.mark.parametrize("value_ratio", [0.0, 1.0])
def test_extreme_value_ratios_run(build, value_ratio, merge):
    network = build("torchvision", 18).eval()
    plain = copy.deepcopy(network)
    augment(network, AttentionSpec(value_ratio=value_ratio, max_image_size=64, merge=merge))
    images = torch.randn(2, 3, 40, 33)
    with torch.no_grad():
        same = torch.equal(network(images), plain(images))
    assert same == (value_ratio == 0 or merge == "add")


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("conv", ["aa", "aw"])
def test_copies_of_an_augmented_network_are_independent(build, copied, conv):
    network = build("torchvision", 18, stages=["res3"]).eval()
    augment(network, AttentionSpec(conv, "cbam", stages=("res3",), max_image_size=64))
    images = torch.zeros(2, 3, 48, 48)
    images[0, :, :40, :33] = torch.randn(3, 40, 33)
    images[1] = torch.randn(3, 48, 48)
    twin = copied(network)

    def interrupt(module, args, out):
        network(images[:, :, :35, :41])  # images of other sizes, on their way at the same time

    with torch.no_grad():
        expected = network(images)["res3"]
        twin.layer1.register_forward_hook(interrupt)
        assert torch.equal(twin(images)["res3"], expected)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(network(images)["res3"], expected)
