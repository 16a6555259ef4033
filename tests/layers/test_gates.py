"""SE and CBAM: against their definitions, torchvision's SE, and padding."""

import copy

import pytest
import torch
import torch.nn.functional as F

from aa_detection.layers import CBAM, SqueezeExcitation
from aa_detection.layers.gates import GATES

SIZES = [(7, 9), (7, 5), (4, 9), (1, 1), (3, 4)]

gates = pytest.mark.parametrize("gate", GATES.values(), ids=GATES)


def padded(dtype=torch.float64):
    """Images of ``SIZES`` with 8 channels in one batch, and noise where there is none."""
    batch = torch.randn(len(SIZES), 8, 7, 9, dtype=dtype)
    return batch, [image[:, :rows, :columns] for image, (rows, columns) in zip(batch, SIZES)]


def test_squeeze_excitation_is_torchvisions():
    torchvision_ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    torch.manual_seed(0)
    layer, theirs = SqueezeExcitation(64, 16), torchvision_ops.SqueezeExcitation(64, 4)
    layer.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 64, 5, 7)
    torch.testing.assert_close(layer(x), theirs(x))


def test_cbam_is_its_definition():
    torch.manual_seed(0)
    layer = CBAM(8, 2).double()
    batch = torch.randn(2, 8, 6, 5, dtype=torch.float64)

    def channels_weights(vector):
        hidden = layer.fc1.weight[:, :, 0, 0] @ vector + layer.fc1.bias
        return layer.fc2.weight[:, :, 0, 0] @ hidden.clamp(min=0) + layer.fc2.bias

    for image, out in zip(batch, layer(batch), strict=True):
        pixels = image.flatten(1)
        logits = channels_weights(pixels.mean(1)) + channels_weights(pixels.max(1).values)
        weighted = image * torch.sigmoid(logits)[:, None, None]
        bordered = F.pad(torch.stack([weighted.mean(0), weighted.max(0).values]), (3, 3, 3, 3))
        expected = torch.empty_like(image)
        for i in range(6):
            for j in range(5):
                window = bordered[:, i : i + 7, j : j + 7]
                logit = (window * layer.spatial.weight[0]).sum() + layer.spatial.bias[0]
                expected[:, i, j] = weighted[:, i, j] * torch.sigmoid(logit)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("gate", "channels", "parameters"),
    [
        (SqueezeExcitation, 256, 2 * 256 * 16 + 16 + 256),
        (SqueezeExcitation, 8, 2 * 8 + 1 + 8),
        (CBAM, 256, 2 * 256 * 16 + 16 + 256 + 2 * 49 + 1),
    ],
)
def test_parameters(gate, channels, parameters):
    assert sum(p.numel() for p in gate(channels, 16).parameters()) == parameters


@gates
def test_image_alone_is_the_image_in_a_padded_batch(gate):
    torch.manual_seed(0)
    layer = gate(8, 2).double()
    batch, images = padded()
    blind = layer(batch)
    layer.valid_size = torch.tensor(SIZES)
    together = layer(batch)
    layer.valid_size = None
    for index, image in enumerate(images):
        found = together[index, :, : image.shape[1], : image.shape[2]]
        torch.testing.assert_close(found, layer(image[None])[0], rtol=1e-12, atol=1e-12)
    # without the sizes the noise shows, or this test would prove nothing
    assert (blind - together)[-1, :, :3, :4].abs().max() > 1e-3


@gates
def test_image_without_a_real_pixel_makes_no_nan(gate):
    torch.manual_seed(0)
    layer = gate(8, 2)
    layer.valid_size = torch.tensor([[0, 0], [5, 6]])
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    out = layer(x)
    (out * torch.randn_like(out)).sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), name


@gates
@pytest.mark.parametrize("with_sizes", [False, True])
def test_batch_of_no_images(gate, with_sizes):
    layer = gate(8, 2)
    if with_sizes:
        layer.valid_size = torch.zeros(0, 2, dtype=torch.int64)
    out = layer(torch.zeros(0, 8, 5, 7))
    assert out.shape == (0, 8, 5, 7)
    out.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@gates
def test_starts_open(gate):
    torch.manual_seed(0)
    ratio = gate(64, 16)(torch.ones(1, 64, 9, 9))
    least = 0.8 if gate is SqueezeExcitation else 0.55  # CBAM has two gates, the second moved by
    assert least < ratio.min() and ratio.max() < 1  # the sum of its 7×7 window


@gates
def test_a_reduction_of_nothing_is_refused(gate):
    with pytest.raises(ValueError, match="^reduction must be at least 1, got 0"):
        gate(8, 0)


@gates
def test_float16_sums_of_large_maps_are_finite(gate):
    layer = gate(8, 2)
    layer.valid_size = torch.tensor([[300, 300]])
    with torch.autocast("cpu", dtype=torch.float16):
        out = layer(torch.full((1, 8, 300, 300), 10.0, dtype=torch.float16))
    assert out.isfinite().all()


@gates
def test_copies_are_independent(gate):
    layer = gate(8, 2)
    x = torch.randn(1, 8, 5, 5)
    expected = layer(x)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(layer(x), expected)
