"""The attention-augmented convolution: against loops over pixels, and the promises it makes."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aa_detection.attention.positions import real_pixels
from aa_detection.layers import AAConv2d
from aa_detection.layers.aa_conv import MERGES, attention_depths
from aa_detection.layers.sinusoidal import sinusoidal_positions

# kernel, stride, padding, dilation
GEOMETRIES = [
    (1, 1, 0, 1),
    (1, 2, 0, 1),
    (3, 1, 1, 1),
    (3, 2, 1, 1),
    (3, 3, 1, 1),
    (3, 1, 2, 2),
    (3, 2, 2, 2),
    (5, 2, 2, 1),
    (7, 2, 3, 1),
    (3, 1, 0, 1),
    (3, 2, 0, 1),
    (2, 2, 0, 1),
    (4, 2, 1, 1),
    ((1, 3), 1, (0, 1), 1),
    ((3, 1), (2, 1), (1, 0), 1),
    ((5, 3), (1, 2), (4, 2), (2, 2)),
]
SIZES = [(1, 1), (1, 7), (5, 3), (13, 10)]
# those whose output has ceil(size / stride) pixels, as all convolutions of a ResNet
SAME_PADDING = [(1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 2, 2, 2), (5, 1, 2, 1)]


def make(in_channels=6, out_channels=16, kernel_size=3, stride=1, padding=1, dilation=1, **options):
    options = {"num_heads": 2, "key_ratio": 0.5, "value_ratio": 0.5, "max_size": 4, **options}
    return AAConv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, **options)


def randomised(layer):
    """Every parameter random, biases too: an initial zero hides whether it is used."""
    with torch.no_grad():
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return layer


# The layer once more, one pixel at a time. Lists and dot products only, so that no reshape,
# broadcast or index of the layer is repeated here.


def pixel(x, i, j):
    """Channels of pixel (i, j) of a ``(C, H, W)`` map, zeros outside of it."""
    inside = 0 <= i < x.shape[1] and 0 <= j < x.shape[2]
    return x[:, i, j] if inside else x.new_zeros(len(x))


def convolution_by_loops(layer, x, out_size):
    """``{(i, j): channels}`` of the convolution branch on a ``(C, H, W)`` map."""
    (kh, kw), (sh, sw) = layer.kernel_size, layer.stride
    (ph, pw), (dh, dw) = layer.padding, layer.dilation
    maps = {}
    for i in range(out_size[0]):
        for j in range(out_size[1]):
            maps[i, j] = layer.bias.clone()
            for a in range(kh):
                for b in range(kw):
                    source = pixel(x, i * sh - ph + a * dh, j * sw - pw + b * dw)
                    maps[i, j] += layer.weight[:, :, a, b] @ source
    return maps


def average_by_loops(x, stride):
    """3×3 average around every `stride`-th pixel; zeros around the map count."""
    size = [math.ceil(n / s) for n, s in zip(x.shape[1:], stride, strict=True)]
    out = x.new_zeros(len(x), *size)
    for i in range(size[0]):
        for j in range(size[1]):
            for a in (-1, 0, 1):
                for b in (-1, 0, 1):
                    out[:, i, j] += pixel(x, i * stride[0] + a, j * stride[1] + b) / 9
    return out


def wave(channel, i, j, channels):
    """Absolute position of pixel (i, j): the first half of the channels is of the row."""
    of_rows = math.ceil(channels / 2)
    if channel < of_rows:
        position, number, length = i, channel, of_rows
    else:
        position, number, length = j, channel - of_rows, channels - of_rows
    angle = position / 10000 ** (2 * (number // 2) / length)
    return math.cos(angle) if number % 2 else math.sin(angle)


def attention_by_loops(layer, x):
    """``{(i, j): channels}`` of multi-head attention over a ``(C, H, W)`` map, Bello et al. 3.2."""
    d_k = layer.key_depth // layer.num_heads
    d_v = layer.value_depth // layer.num_heads
    pixels = [(i, j) for i in range(x.shape[1]) for j in range(x.shape[2])]
    if layer.absolute:
        x = x.clone()
        for i, j in pixels:
            x[:, i, j] += x.new_tensor([wave(c, i, j, len(x)) for c in range(len(x))])
    qkv = {p: layer.qkv.weight[:, :, 0, 0] @ x[:, p[0], p[1]] + layer.qkv.bias for p in pixels}
    mixed = {}
    for p in pixels:
        heads = []
        for head in range(layer.num_heads):
            q = qkv[p][head * d_k : (head + 1) * d_k]
            logits, values = [], []
            for other in pixels:
                k = qkv[other][layer.key_depth :][head * d_k : (head + 1) * d_k]
                logit = q @ k
                for axis, table in enumerate((layer.rel_h, layer.rel_w)):
                    if table is not None:
                        furthest = len(table) // 2
                        distance = other[axis] - p[axis]
                        logit = (
                            logit + q @ table[max(-furthest, min(furthest, distance)) + furthest]
                        )
                logits.append(logit / math.sqrt(d_k))
                values.append(qkv[other][2 * layer.key_depth :][head * d_v : (head + 1) * d_v])
            weights = torch.stack(logits).softmax(0)
            heads.append(sum(w * v for w, v in zip(weights, values, strict=True)))
        mixed[p] = layer.proj.weight[:, :, 0, 0] @ torch.cat(heads) + layer.proj.bias
    return mixed


def upsampled_by_loops(maps, size, i, j):
    """Bilinear sample of ``{(i, j): channels}`` at pixel (i, j) of a map twice as large."""

    def neighbours(position, length):
        source = max((position + 0.5) / 2 - 0.5, 0)
        low = math.floor(source)
        return [(low, 1 - (source - low)), (min(low + 1, length - 1), source - low)]

    return sum(
        weight_i * weight_j * maps[a, b]
        for a, weight_i in neighbours(i, size[0])
        for b, weight_j in neighbours(j, size[1])
    )


@torch.no_grad()
def layer_by_loops(layer, batch):
    """What `layer` makes of a ``(B, C, H, W)`` batch."""
    images = []
    for x in batch:
        geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        out_size = [
            len(range(0, n + 2 * p - d * (k - 1), s))
            for n, k, s, p, d in zip(x.shape[1:], *geometry, strict=True)
        ]
        # the input pixels under the centres of the kernel
        top, left = (d * (k - 1) // 2 - p for k, _, p, d in zip(*geometry, strict=True))
        rows, columns = (n * s for n, s in zip(out_size, layer.stride, strict=True))
        centers = x[:, top : top + rows, left : left + columns]
        if layer.stride != (1, 1):
            centers = average_by_loops(centers, layer.stride)
        if layer.pool:
            centers = average_by_loops(centers, (2, 2))
        attention = attention_by_loops(layer, centers)
        maps = None if layer.weight is None else convolution_by_loops(layer, x, out_size)
        image = x.new_zeros(layer.out_channels, *out_size)
        for i in range(out_size[0]):
            for j in range(out_size[1]):
                attended = (
                    upsampled_by_loops(attention, centers.shape[1:], i, j)
                    if layer.pool
                    else attention[i, j]
                )
                if maps is None:
                    image[:, i, j] = attended
                elif layer.merge == "add":
                    image[:, i, j] = maps[i, j] + attended
                else:
                    image[:, i, j] = torch.cat([maps[i, j], attended])
        images.append(image)
    return torch.stack(images)


@pytest.mark.parametrize(
    ("geometry", "size", "options"),
    [
        ((3, 1, 1, 1), (5, 3), {}),
        ((3, 1, 1, 1), (1, 7), {}),
        ((3, 1, 1, 1), (3, 5), {"max_size": (2, 3)}),  # distances beyond both tables
        ((3, 1, 1, 1), (5, 4), {"max_size": 1}),  # one row a table: no positions to tell
        ((3, 1, 1, 1), (5, 3), {"relative": False}),
        ((3, 1, 1, 1), (5, 3), {"relative": False, "absolute": True}),
        ((3, 2, 1, 1), (9, 7), {"absolute": True, "pool": True}),
        ((3, 1, 1, 1), (4, 3), {"num_heads": 4, "min_key_depth_per_head": 3}),
        ((3, 1, 1, 1), (3, 4), {"value_ratio": 1}),
        ((1, 1, 0, 1), (3, 4), {}),
        ((3, 1, 0, 1), (5, 6), {}),
        ((5, 1, 4, 2), (3, 4), {}),
        (((1, 3), 1, (0, 1), 1), (4, 3), {}),
        ((3, 2, 1, 1), (7, 5), {}),
        ((3, 2, 1, 1), (6, 9), {"max_size": (2, 3)}),
        ((3, (2, 1), 1, 1), (5, 4), {}),
        ((3, 1, 1, 1), (5, 7), {"pool": True}),
        ((3, 1, 1, 1), (6, 4), {"pool": True, "max_size": (2, 1)}),
        ((3, 2, 1, 1), (9, 7), {"pool": True}),
        ((3, 1, 1, 1), (5, 3), {"merge": "add"}),
        ((3, 2, 1, 1), (7, 5), {"merge": "add", "value_ratio": 1}),
        ((3, 1, 0, 1), (5, 6), {"merge": "add", "relative": False, "absolute": True}),
        ((3, 2, 1, 1), (9, 7), {"merge": "add", "pool": True, "max_size": (2, 1)}),
    ],
)
def test_layer_equals_loops_over_pixels_and_heads(geometry, size, options):
    torch.manual_seed(0)
    layer = randomised(make(3, 8, *geometry, **options)).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer_by_loops(layer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "geometry", [(3, 1, 1, 1), (3, 2, 3, 2), (1, 1, 0, 1), (3, 1, 2, 1)], ids=str
)
def test_value_ratio_0_is_the_convolution_bit_for_bit(geometry, bias, merge):
    torch.manual_seed(7)
    plain = nn.Conv2d(5, 12, *geometry, bias=bias)
    torch.manual_seed(7)
    layer = make(5, 12, *geometry, bias=bias, value_ratio=0, merge=merge)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(layer.state_dict()[name], tensor), name
    x = torch.randn(2, 5, 9, 7)
    assert torch.equal(layer(x), plain(x))


def test_value_ratio_1_makes_no_convolution():
    layer = make(value_ratio=1)
    assert layer.weight is None and layer.bias is None
    assert [name for name, _ in layer.named_parameters()] == [
        "rel_h",
        "rel_w",
        "qkv.weight",
        "qkv.bias",
        "proj.weight",
        "proj.bias",
    ]
    assert layer(torch.randn(2, 6, 5, 7)).shape == (2, 16, 5, 7)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("value_ratio", [0.25, 1])
@pytest.mark.parametrize("geometry", SAME_PADDING, ids=str)
def test_added_attention_starts_as_the_convolution_bit_for_bit(geometry, value_ratio, bias, pool):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 16, *geometry, bias=bias)
    layer = make(6, 16, *geometry, bias=bias, value_ratio=value_ratio, pool=pool, merge="add")
    layer.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 6, 9, 7)
    assert torch.equal(layer(x), plain(x))
    layer.valid_size = torch.tensor([[9, 7], [5, 6]])
    assert torch.equal(layer(x), plain(x))
    nn.init.normal_(layer.proj.weight)
    assert not torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_added_attention_moves_with_the_second_step(stride, pool):
    torch.manual_seed(0)
    layer = make(stride=stride, pool=pool, merge="add")
    start = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in (1, 2):
        optimizer.zero_grad()
        out = layer(torch.randn(2, 6, 9, 11))
        (out * torch.randn_like(out)).sum().backward()
        optimizer.step()
        still = {n for n, p in layer.named_parameters() if torch.equal(p, start[n])}
        assert still == ({"qkv.weight", "qkv.bias", "rel_h", "rel_w"} if step == 1 else set())


def test_parameters_of_added_attention():
    layer = make(value_ratio=0.5, merge="add")
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    assert shapes["weight"] == (16, 6, 3, 3) and shapes["bias"] == (16,)
    assert shapes["proj.weight"] == (16, 8, 1, 1) and shapes["proj.bias"] == (16,)
    assert make(value_ratio=1, merge="add").proj.weight.shape == (16, 16, 1, 1)


def test_without_bias_no_part_has_one():
    names = [name for name, _ in make(bias=False).named_parameters()]
    assert names == ["weight", "rel_h", "rel_w", "qkv.weight", "proj.weight"]


@pytest.mark.parametrize(("pool", "merge"), [(False, "concat"), (True, "concat"), (True, "add")])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_output_size_is_conv2ds(geometry, size, pool, merge):
    plain = nn.Conv2d(6, 16, *geometry)
    layer = make(6, 16, *geometry, pool=pool, merge=merge)
    x = torch.randn(2, 6, *size)
    try:
        expected = plain(x).shape
    except RuntimeError:  # the kernel is larger than the map
        with pytest.raises(ValueError, match="is smaller than the kernel"):
            layer(x)
        return
    out = layer(x)
    assert out.shape == expected
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("channels", "key_depth", "value_depth"),
    [(64, 16, 8), (128, 32, 8), (256, 56, 24), (512, 104, 48)],
)
def test_defaults_suit_the_widths_of_a_resnet(channels, key_depth, value_depth):
    layer = AAConv2d(channels, channels, 3, padding=1, max_size=(4, 6))
    assert (layer.key_depth, layer.value_depth) == (key_depth, value_depth)
    assert layer(torch.randn(1, channels, 4, 6)).shape == (1, channels, 4, 6)


@pytest.mark.parametrize(
    ("arguments", "depths"),
    [
        # out_channels, num_heads, key_ratio, value_ratio, min_key_depth_per_head
        ((64, 8, 0.2, 0.1, 0), (16, 8)),  # 12.8 up to 16; 6.4 down to 0, but a map a head
        ((256, 8, 0.2, 0.1, 0), (56, 24)),
        ((256, 8, 0.2, 0.1, 20), (160, 24)),
        ((512, 8, 0.2, 0.1, 13), (104, 48)),  # the minimum is what it would be anyway
        ((512, 8, 0.25, 0.25, 0), (128, 128)),
        ((10, 1, 0.3, 0.3, 0), (3, 3)),
        ((100, 1, 0.07, 0.29, 0), (7, 29)),  # in binary fractions 7.000…1 and 28.999…
        ((100, 2, 0.14, 0.58, 0), (14, 58)),
        ((16, 4, 1, 1, 0), (16, 16)),
        ((16, 16, 0.01, 0.01, 0), (16, 16)),
        ((64, 8, 0.2, 0, 20), (0, 0)),
        ((4, 8, 0.2, 0, 0), (0, 0)),  # a plain convolution has no heads to share
    ],
)
def test_attention_depths(arguments, depths):
    assert attention_depths(*arguments) == depths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_heads": -2}, "num_heads must be at least 1, got -2"),
        ({"num_heads": 17}, "num_heads must be at most out_channels = 16, got 17"),
        ({"num_heads": 3, "value_ratio": 1}, "num_heads must divide out_channels = 16"),
        ({"value_ratio": -0.1}, "value_ratio must be between 0 and 1, got -0.1"),
        ({"value_ratio": 1.1}, "value_ratio must be between 0 and 1, got 1.1"),
        ({"value_ratio": math.nan}, "value_ratio must be between 0 and 1, got nan"),
        ({"merge": "sum"}, "merge must be among concat, add, got 'sum'"),
        ({"key_ratio": 0}, "key_ratio must be above 0 and at most 1, got 0"),
        ({"key_ratio": 1.5}, "key_ratio must be above 0 and at most 1, got 1.5"),
        ({"min_key_depth_per_head": -1}, "min_key_depth_per_head must not be negative, got -1"),
        ({"max_size": (4, 0)}, r"max_size must be at least 1, got \(4, 0\)"),
        ({"padding": 2}, r"padding \(2, 2\) puts the centre of a \(3, 3\) kernel outside"),
        ({"kernel_size": 1, "padding": (0, 1)}, r"padding \(0, 1\) puts the centre"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


def test_more_padding_than_the_centre_is_fine_without_attention():
    assert make(padding=2, value_ratio=0)(torch.randn(1, 6, 3, 3)).shape == (1, 16, 5, 5)


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_absolute_positions_of_any_number_of_channels(channels):
    x = torch.randn(2, channels, 3, 4, dtype=torch.float64)
    expected = [
        [[wave(c, i, j, channels) for j in range(4)] for i in range(3)] for c in range(channels)
    ]
    torch.testing.assert_close(sinusoidal_positions(x), x.new_tensor(expected))


@pytest.mark.parametrize("value_ratio", [0.5, 1])
def test_map_smaller_than_the_kernel_is_refused_with_both_sizes(value_ratio):
    layer = make(kernel_size=5, padding=1, value_ratio=value_ratio)
    with pytest.raises(ValueError, match=r"a map of \(2, 9\) is smaller than the kernel \(5, 5\)"):
        layer(torch.randn(1, 6, 2, 9))


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("backend", ["blocked", "folded"])
def test_every_backend_computes_the_layer(backend, merge):
    """Gradients included, on an odd padded batch, in float64: of those that take it."""
    torch.manual_seed(0)
    layer = randomised(make(pool=False, merge=merge)).double()
    layer.valid_size = torch.tensor([[7, 9], [5, 4]])
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64) * real_pixels(layer.valid_size, 7, 9)[:, None]
    found = {}
    for name in ("dense", backend):
        layer.backend = name
        out = layer(x)
        gradients = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
        found[name] = out, *gradients
    torch.testing.assert_close(found[backend], found["dense"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_parameter_is_registered_and_receives_a_gradient(stride, pool):
    torch.manual_seed(0)
    layer = make(stride=stride, pool=pool)
    x = torch.randn(2, 6, 9, 11)
    out = layer(x)
    (out * torch.randn_like(out)).sum().backward()
    names = [name for name, _ in layer.named_parameters()]
    assert {"rel_h", "rel_w"} <= set(names)
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f"no gradient for {name}"
        if name == "qkv.bias":  # the same number added to all logits of a query changes nothing
            queries = parameter.grad[: layer.key_depth]
            values = parameter.grad[2 * layer.key_depth :]
            assert queries.abs().max() > 0 and values.abs().max() > 0
        else:
            assert parameter.grad.abs().max() > 0, f"zero gradient for {name}"


def test_the_attention_starts_with_the_spread_that_keeps_its_inputs():
    torch.manual_seed(0)
    layer = make(48, 128, num_heads=2, max_size=200)
    for table in (layer.rel_h, layer.rel_w):
        assert float(table.detach().std()) == pytest.approx(table.shape[1] ** -0.5, rel=0.05)
    for projection in (layer.qkv, layer.proj):
        fan = projection.in_channels + projection.out_channels
        assert float(projection.weight.std()) == pytest.approx((2 / fan) ** 0.5, rel=0.05)
        assert not projection.bias.any()


def test_distance_tables_have_a_row_for_every_distance():
    layer = make(max_size=(5, 3))
    assert layer.rel_h.shape == (9, layer.key_depth // 2)
    assert layer.rel_w.shape == (5, layer.key_depth // 2)


def test_evaluation_is_deterministic_and_leaves_the_state_alone():
    layer = make(norm=nn.BatchNorm2d(16)).eval()
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(2, 6, 7, 5)
    with torch.no_grad():
        first, other_size, second = layer(x), layer(torch.randn(1, 6, 11, 3)), layer(x)
    assert torch.equal(first, second)
    assert other_size.shape == (1, 16, 11, 3)
    after = layer.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("geometry", SAME_PADDING, ids=str)
@pytest.mark.parametrize(
    ("size", "absolute"), [((9, 10), False), ((10, 9), False), ((9, 10), True)], ids=str
)
def test_valid_size_gives_every_image_what_it_gets_alone(size, absolute, geometry, pool, merge):
    torch.manual_seed(0)
    layer = randomised(make(6, 16, *geometry, pool=pool, absolute=absolute, merge=merge)).double()
    valid = [size, (size[0], 5), (6, size[1]), (7, 8), (1, 1)]
    batch = torch.zeros(len(valid), 6, *size, dtype=torch.float64)
    for image, (rows, columns) in zip(batch, valid, strict=True):
        image[:, :rows, :columns] = torch.randn(6, rows, columns)

    alone = [
        layer(image[None, :, :rows, :columns])[0]
        for image, (rows, columns) in zip(batch, valid, strict=True)
    ]
    blind = layer(batch)
    layer.valid_size = torch.tensor(valid)
    together = layer(batch)

    for index, expected in enumerate(alone):
        rows, columns = expected.shape[1:]
        got = together[index, :, :rows, :columns]
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    # without the sizes the padding shows, or this test would prove nothing
    rows, columns = alone[3].shape[1:]
    assert (blind[3, :, :rows, :columns] - alone[3]).abs().max() > 1e-3


def test_image_without_a_real_pixel_makes_no_nan():
    layer = make(stride=2, pool=True)
    layer.valid_size = torch.tensor([[0, 0], [5, 6]])
    x = torch.randn(2, 6, 9, 9)
    x[0] = 0
    out = layer(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("with_sizes", [False, True])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_batch_of_no_images(stride, pool, with_sizes, merge):
    layer = make(stride=stride, pool=pool, merge=merge)
    if with_sizes:
        layer.valid_size = torch.zeros(0, 2, dtype=torch.int64)
    x = torch.zeros(0, 6, 5, 7)
    assert layer(x).shape == (0, 16, *nn.Conv2d(6, 16, 3, stride, 1)(x).shape[2:])


@pytest.mark.parametrize("merge", MERGES)
def test_norm_then_activation_follow_the_merged_maps(merge):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16).train()
    layer = randomised(make(norm=norm, activation=F.relu, merge=merge))
    x = torch.randn(4, 6, 5, 7)
    out = layer(x)
    layer.norm = layer.activation = None
    expected = F.relu(norm(layer(x)))
    assert (out == 0).any() and (out > 0).any()
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def shuffled(x, order):
    return x.flatten(2)[:, :, order].view_as(x)


@pytest.mark.parametrize(("relative", "absolute"), [(False, False), (True, False), (False, True)])
def test_only_positions_tell_pixels_apart(relative, absolute):
    torch.manual_seed(0)
    layer = randomised(make(value_ratio=1, relative=relative, absolute=absolute)).double()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    order = torch.randperm(35)
    difference = (layer(shuffled(x, order)) - shuffled(layer(x), order)).abs().max()
    assert (layer.rel_h is None, layer.rel_w is None) == (not relative, not relative)
    if relative or absolute:
        assert difference > 1e-3
    else:
        assert difference < 1e-12


@pytest.mark.parametrize(
    "other_layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    ],
    ids=["channels_last", "transposed", "strided"],
)
@pytest.mark.parametrize(("pool", "merge"), [(False, "concat"), (True, "concat"), (False, "add")])
def test_memory_layout_of_the_input_does_not_matter(other_layout, pool, merge):
    torch.manual_seed(0)
    layer = randomised(make(stride=2, pool=pool, merge=merge)).double()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    other = other_layout(x)
    assert torch.equal(x, other) and x.stride() != other.stride()
    torch.testing.assert_close(layer(other), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_compute_the_same_and_share_nothing(copied):
    layer = make(stride=2, pool=True, norm=nn.BatchNorm2d(16), activation=F.relu).eval()
    layer.valid_size = torch.tensor([[7, 5]])
    x = torch.zeros(1, 6, 9, 9)
    x[:, :, :7, :5] = torch.randn(6, 7, 5)
    expected = layer(x)
    twin = copied(layer)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(("pool", "merge"), [(False, "concat"), (True, "concat"), (True, "add")])
def test_runs_under_bfloat16_autocast(pool, merge):
    torch.manual_seed(0)
    layer = make(stride=2, pool=pool, merge=merge)
    nn.init.xavier_uniform_(layer.proj.weight)  # added attention starts at zero
    x = torch.randn(2, 6, 9, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    # bfloat16 keeps 8 bits: the two agree to a few hundredths of outputs of size 1
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)


def test_printing_the_layer_shows_what_matters():
    options = {"pool": True, "max_size": (4, 5), "absolute": True, "merge": "add"}
    text = repr(make(stride=2, dilation=2, padding=2, **options))
    for part in (
        "6, 16, kernel_size=(3, 3), stride=(2, 2), padding=(2, 2)",
        "num_heads=2, key_depth=8, value_depth=8",
        "dilation=(2, 2)",
        "max_size=(4, 5)",
        "pool=True",
        "absolute=True",
        "merge=add",
    ):
        assert part in text
