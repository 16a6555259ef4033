"""The papers' classifiers: their published sizes, and that they learn."""

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision", reason="torchvision is not installed")

from aa_detection.layers import AAConv2d, AWConv2d, SqueezeExcitation  # noqa: E402
from aa_detection.models import classification  # noqa: E402
from aa_detection.models.transfer import load_weights  # noqa: E402
from aa_detection.models.wide_resnet import WideResNet  # noqa: E402


def millions(network):
    return sum(p.numel() for p in network.parameters()) / 1e6


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("aa_resnet34", 20.7),
        ("aa_resnet50", 25.8),
        ("aa_resnet101", 45.4),
        ("aa_resnet152", 61.6),
        ("se_resnet50", 28.1),
        ("aw_resnet50", 25.72),
    ],
)
def test_parameter_counts_are_the_published(name, published):
    with torch.device("meta"):
        network = getattr(classification, name)()
    assert millions(network) == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    ("make", "counted"),
    [
        (WideResNet, 36.54),  # Zagoruyko and Komodakis: 36.5 M
        (classification.aw_resnet101, 44.85),
        # torchvision's MNASNet 1.0 has 4.38
        (classification.aa_mnasnet, 4.68),
    ],
)
def test_other_parameter_counts(make, counted):
    with torch.device("meta"):
        network = make()
    assert round(millions(network), 2) == counted


def test_wide_resnets_parameters_by_the_papers_rules():
    with torch.device("meta"):
        plain, augmented = WideResNet(), classification.aa_wide_resnet28_10()
    change = 0
    for channels, size, first_input in ((160, 32, 16), (320, 16, 160), (640, 8, 320)):
        key_depth, value_depth = 8 * 20, channels // 10
        for inputs in (first_input, channels, channels, channels):
            change -= 9 * inputs * value_depth
            change += inputs * (2 * key_depth + value_depth) + value_depth**2
            change += 2 * (2 * size - 1) * 20
    assert round((millions(augmented) - millions(plain)) * 1e6) == change < 0


@pytest.mark.parametrize(
    ("name", "kind", "layers"),
    [
        ("aa_resnet34", AAConv2d, 4 + 6 + 3),
        ("aa_resnet152", AAConv2d, 8 + 36 + 3),
        ("aw_resnet50", AWConv2d, 3 + 4 + 6 + 3),
        ("se_resnet50", SqueezeExcitation, 3 + 4 + 6 + 3),
        ("aa_wide_resnet28_10", AAConv2d, 12),
        ("aa_mnasnet", AAConv2d, 9),
    ],
)
def test_number_of_layers(name, kind, layers):
    with torch.device("meta"):
        network = getattr(classification, name)()
    assert sum(isinstance(module, kind) for module in network.modules()) == layers


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("aa_wide_resnet28_10", [32] * 4 + [16] * 4 + [8] * 4),
        ("aa_mnasnet", [14] * 5 + [7] * 4),
        ("aa_resnet34", [14] * 4 + [14] * 6 + [7] * 3),
    ],
)
@torch.no_grad()
def test_distance_tables_fit_the_maps(name, sizes):
    network = getattr(classification, name)().eval()
    image = torch.zeros(1, 3, 32, 32) if "wide" in name else torch.zeros(1, 3, 224, 224)
    layers = [m for m in network.modules() if isinstance(m, AAConv2d)]
    seen = []
    for layer in layers:
        layer.qkv.register_forward_hook(lambda m, args, out: seen.append(out.shape[-1]))
    network(image)
    assert [layer.max_size for layer in layers] == [(size, size) for size in sizes]
    assert seen == sizes


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: classification.aa_resnet34(7, 64), 64),
        (lambda: classification.se_resnet50(7), 64),
        (lambda: classification.aw_resnet50(7), 64),
        (lambda: classification.aa_mnasnet(7, 64, alpha=0.5), 64),
        (
            lambda: WideResNet(
                10, 1, 7, 16, lambda i, o, s, n: AAConv2d(i, o, 3, s, 1, bias=False, max_size=n)
            ),
            16,
        ),
    ],
    ids=["aa_resnet34", "se_resnet50", "aw_resnet50", "aa_mnasnet", "aa_wide_resnet"],
)
def test_every_parameter_learns(make, size):
    torch.manual_seed(0)
    network = make().train()
    out = network(torch.randn(4, 3, size, size))
    assert out.shape == (4, 7)
    nn.functional.cross_entropy(out, torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_added_attention_starts_as_torchvisions_network():
    import torchvision

    torch.manual_seed(0)
    plain = torchvision.models.resnet34(num_classes=7).eval()
    network = classification.aa_resnet34(7, 64, merge="add").eval()
    report = load_weights(network, plain.state_dict())
    assert not (report.unused or report.sliced)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), plain(images))
    for make in (
        classification.aa_resnet50,
        classification.aa_resnet101,
        classification.aa_resnet152,
        classification.aa_mnasnet,
    ):
        with torch.device("meta"):
            layers = [m for m in make(merge="add").modules() if isinstance(m, AAConv2d)]
        assert layers and {layer.merge for layer in layers} == {"add"}


def test_torchvisions_checkpoints_load():
    import torchvision

    torch.manual_seed(0)
    weights = torchvision.models.mnasnet0_5().state_dict()
    report = load_weights(classification.aa_mnasnet(alpha=0.5), dict(weights))
    assert not report.unused
    assert sum(name.endswith("layers.0.weight") for name in report.sliced) == 9


@pytest.mark.parametrize("depth", [4, 27])
def test_wide_resnets_of_no_depth_are_refused(depth):
    with pytest.raises(ValueError, match=f"^depth must be 6n \\+ 4, got {depth}"):
        WideResNet(depth)
