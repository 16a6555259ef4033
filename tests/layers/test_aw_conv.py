"""The AW-convolution: against one convolution an image, and the promises it makes."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aa_detection.layers import AWConv2d

# kernel, stride, padding, dilation, groups
GEOMETRIES = [
    (3, 1, 1, 1, 1),
    (3, 2, 1, 1, 1),
    (3, 1, 2, 2, 1),
    (3, 1, 1, 1, 2),
    (3, 2, 1, 1, 4),
    (1, 1, 0, 1, 1),
    (5, 2, 2, 1, 2),
    ((1, 3), (2, 1), (0, 1), 1, 1),
]


def make(geometry=(3, 1, 1, 1, 1), in_channels=8, out_channels=12, **options):
    return AWConv2d(in_channels, out_channels, *geometry, **{"reduction": 2, **options})


def average_by_slices(x, bins):
    """``(C, H, W)`` to ``(C, *bins)``: bin i is rows floor(i H / n) to ceil((i + 1) H / n)."""
    (height, width), out = x.shape[1:], x.new_zeros(len(x), *bins)
    for i in range(bins[0]):
        for j in range(bins[1]):
            rows = slice(i * height // bins[0], -(-(i + 1) * height // bins[0]))
            columns = slice(j * width // bins[1], -(-(j + 1) * width // bins[1]))
            out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


def layer_by_loops(layer, batch):
    """What `layer` makes of a ``(B, C, H, W)`` batch: one convolution an image and a filter."""
    reduce, restore = layer.reduce, layer.restore
    filters, channels = layer.weight.shape[:2]
    images = []
    for x in batch:
        pooled = average_by_slices(x, layer.kernel_size)
        hidden = torch.einsum("rc,cab->rab", reduce.weight[:, :, 0, 0], pooled)
        hidden = (hidden + reduce.bias[:, None, None]).clamp(min=0)
        logits = torch.einsum("cr,rab->cab", restore.weight[:, :, 0, 0], hidden)
        attention = 1 / (1 + torch.exp(-logits - restore.bias[:, None, None]))
        maps = []
        for number in range(filters):
            group = number // (filters // layer.groups)
            mine = slice(group * channels, (group + 1) * channels)
            kernel = attention[mine] * layer.weight[number]
            maps.append(
                F.conv2d(
                    x[None, mine], kernel[None], None, layer.stride, layer.padding, layer.dilation
                )[0, 0]
                + (0 if layer.bias is None else layer.bias[number])
            )
        images.append(torch.stack(maps))
    return torch.stack(images)


@pytest.mark.parametrize("size", [(7, 10), (9, 6)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("grouped", [True, False])
def test_layer_equals_a_loop_over_images_with_their_own_kernels(grouped, geometry, bias, size):
    torch.manual_seed(0)
    layer = make(geometry, bias=bias).double()
    layer.grouped = grouped
    x = torch.randn(3, 8, *size, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    out, expected = layer(x), layer_by_loops(layer, x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(out)
    found = torch.autograd.grad((out * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, other in zip(found, wanted, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_plain_checkpoints_fit_and_an_attention_of_one_is_the_convolution(geometry):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 12, *geometry)
    layer = make(geometry)
    report = layer.load_state_dict(plain.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert all(name.startswith(("reduce.", "restore.")) for name in report.missing_keys)
    with torch.no_grad():
        layer.restore.bias.fill_(100)
    x = torch.randn(2, 8, 9, 10)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


def test_starts_near_the_plain_convolution():
    torch.manual_seed(0)
    layer = make(in_channels=64, reduction=16)
    attention = layer.attention(torch.randn(4, 64, 20, 30))
    assert attention.shape == (4, 64, 3, 3)
    assert 0.75 < attention.min() and attention.max() < 0.97


def test_images_have_kernels_of_their_own():
    torch.manual_seed(0)
    layer = make().double()
    first, second = torch.randn(2, 1, 8, 9, 9, dtype=torch.float64)
    difference = layer(first + second) - layer(first) - layer(second)
    assert (difference + layer.bias[:, None, None]).abs().max() > 1e-3, "the layer is linear"
    together = layer(torch.cat([first, second]))
    torch.testing.assert_close(together, torch.cat([layer(first), layer(second)]))


@pytest.mark.parametrize(
    ("channels", "reduction", "parameters"),
    [(64, 16, 64 * 4 * 2 + 4 + 64), (512, 16, 512 * 32 * 2 + 32 + 512), (8, 16, 8 * 2 + 1 + 8)],
)
def test_attention_parameters(channels, reduction, parameters):
    layer = AWConv2d(channels, channels, 3, bias=False, reduction=reduction)
    assert sum(p.numel() for p in layer.parameters()) - layer.weight.numel() == parameters


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("size", [(7, 10), (8, 9)], ids=str)
def test_valid_size_gives_every_image_what_it_gets_alone(geometry, size):
    torch.manual_seed(0)
    layer = make(geometry).double()
    valid = [size, (size[0], 5), (6, size[1]), (5, 6), (2, 1)]
    batch = torch.zeros(len(valid), 8, *size, dtype=torch.float64)
    for image, (rows, columns) in zip(batch, valid, strict=True):
        image[:, :rows, :columns] = torch.randn(8, rows, columns)
    blind = layer(batch)
    layer.valid_size = torch.tensor(valid)
    together = layer(batch)
    layer.valid_size = None
    sizes = [tuple(-(-n // s) for n, s in zip(v, layer.stride, strict=True)) for v in valid]
    for index, (rows, columns) in enumerate(valid):
        height, width = sizes[index]
        expected = layer(batch[index : index + 1, :, :rows, :columns])[0, :, :height, :width]
        got = together[index, :, :height, :width]
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    # without the sizes the padding shows, or this test would prove nothing
    height, width = sizes[3]
    assert (blind - together)[3, :, :height, :width].abs().max() > 1e-3


def test_image_without_a_real_pixel_makes_no_nan():
    layer = make()
    layer.valid_size = torch.tensor([[0, 0], [5, 6]])
    x = torch.randn(2, 8, 9, 9)
    x[0] = 0
    out = layer(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("with_sizes", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_of_no_images(groups, with_sizes):
    layer = make((3, 2, 1, 1, groups))
    if with_sizes:
        layer.valid_size = torch.zeros(0, 2, dtype=torch.int64)
    out = layer(torch.zeros(0, 8, 5, 7))
    assert out.shape == (0, 12, 3, 4)
    out.sum().backward()  # distributed training waits for every gradient
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_norm_then_activation_follow():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(12).train()
    layer = make(norm=norm, activation=F.relu)
    x = torch.randn(4, 8, 5, 7)
    out = layer(x)
    layer.norm = layer.activation = None
    torch.testing.assert_close(out, F.relu(norm(layer(x))), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 0}, "reduction must be at least 1, got 0"),
        ({"groups": 3}, "groups must divide in_channels = 8 and out_channels = 12, got 3"),
        ({"groups": 8}, "groups must divide in_channels = 8 and out_channels = 12, got 8"),
        ({"groups": 0}, "groups must divide .* got 0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        AWConv2d(8, 12, 3, **options)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_compute_the_same_and_share_nothing(copied):
    layer = make(norm=nn.BatchNorm2d(12), activation=F.relu).eval()
    x = torch.randn(1, 8, 9, 9)
    expected = layer(x)
    twin = copied(layer)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(layer(x), expected)


def test_runs_under_bfloat16_autocast():
    torch.manual_seed(0)
    layer = make()
    layer.valid_size = torch.tensor([[9, 7], [5, 6]])
    x = torch.randn(2, 8, 9, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)


def test_printing_the_layer_shows_what_matters():
    text = repr(make((3, 2, 2, 2, 4), bias=False))
    for part in (
        "8, 12, kernel_size=(3, 3), stride=(2, 2), padding=(2, 2), reduction=2",
        "dilation=(2, 2)",
        "groups=4",
        "bias=False",
    ):
        assert part in text
