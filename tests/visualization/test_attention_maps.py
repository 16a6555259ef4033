"""Attention maps over a picture: the right weights, of the right layers, in the right place."""

import pytest
import torch
import torchvision
from torch import nn

from aa_detection import AAConv2d, AttentionSpec, augment, relative_attention_2d
from aa_detection.layers import aa_conv
from aa_detection.visualization.attention_maps import record_attention


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    spec = AttentionSpec(max_image_size=64, num_heads=4, mask_padding="all")
    return augment(network, spec).eval()


def picture(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, height, width, generator=generator)


@torch.no_grad()
def record(network, images):
    with record_attention(network) as recorded:
        network(images)
    return recorded


def all_points(layer):
    """The grid's points in the picture, row by row."""
    rows, columns = layer.size
    return [
        (layer.origin[1] + x * layer.step[1], layer.origin[0] + y * layer.step[0])
        for y in range(rows)
        for x in range(columns)
    ]


def test_maps_are_the_weights_that_the_network_used(resnet, monkeypatch):
    used = []

    def spy(q, k, v, rel_h, rel_w, *, valid_size, backend):
        height, width = q.shape[2:4]
        one_hot = torch.eye(height * width).view(1, 1, height, width, -1)
        one_hot = one_hot.expand(*q.shape[:2], -1, -1, -1)
        used.append(relative_attention_2d(q, k, one_hot, rel_h, rel_w, backend="dense"))
        return relative_attention_2d(q, k, v, rel_h, rel_w, valid_size=valid_size, backend=backend)

    monkeypatch.setattr(aa_conv, "relative_attention_2d", spy)
    attention = record(resnet, picture(75, 90)).of_picture()
    assert [layer.name for layer in attention.layers] == [
        f"layer{stage}.{block}.conv1" for stage in (2, 3, 4) for block in (0, 1)
    ]
    assert [layer.size for layer in attention.layers] == [(5, 6)] * 4 + [(3, 3)] * 2
    for layer, expected in zip(attention.layers, used, strict=True):
        maps = layer.maps(all_points(layer))  # (heads, n, H, W)
        torch.testing.assert_close(maps.flatten(2), expected[0].flatten(1, 2))
        assert maps.std() > 0.01  # they differ from each other and from uniform


def test_a_padded_batch_changes_nothing(resnet):
    one, other = picture(64, 96), picture(50, 41, seed=1)
    batch = torch.zeros(2, 3, 64, 96)
    batch[0] = one[0]
    batch[1, :, :50, :41] = other[0]
    recorded = record(resnet, batch)
    points = [(0, 0), (20.5, 33), (41, 50)]
    for index, alone in enumerate((one, other)):
        size = tuple(alone.shape[2:])
        maps = recorded.of_picture(index, input_size=size).maps(points)
        expected = record(resnet, alone).of_picture().maps(points)
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)


def test_points_are_of_the_picture_before_it_was_resized(resnet):
    recorded = record(resnet, picture(64, 96))
    attention = recorded.of_picture(picture_size=(128, 288))
    layer = attention.layers[0]  # pooled: every 16th pixel of the input, from the first
    assert layer.origin == (1, 1.5) and layer.step == (32, 48)
    points = [(1.5, 1), (49.5, 33), (73, 33), (74, 17.5), (288, 128)]
    assert layer.grid_points(points).tolist() == [[0, 0], [1, 1], [1, 1], [1, 2], [3, 5]]
    same = recorded.of_picture().maps([(x / 3, y / 2) for x, y in points])
    torch.testing.assert_close(attention.maps(points), same, rtol=0, atol=0)


def test_grid_points_are_the_centres_of_receptive_fields():
    """The pixels that reach a grid point's query lie around it, equally far to each side."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    augment(network, AttentionSpec(stages=("res3",), max_image_size=160))
    network.eval()
    layer = network.layer2[0].conv1
    reached = torch.zeros(160, 160)
    outputs = []
    layer.qkv.register_forward_hook(lambda module, args, out: outputs.append(out))
    for seed in range(4):
        images = picture(160, 160, seed).requires_grad_()
        network(images)
        outputs.pop()[0, :, 4, 5].sum().backward()
        reached += images.grad[0].abs().sum(0)
    attention = record(network, picture(160, 160)).of_picture()
    (y, x) = (
        o + i * s for o, s, i in zip(attention.layers[0].origin, attention.layers[0].step, (4, 5))
    )
    rows, columns = (reached.sum(dim).nonzero().flatten() for dim in (1, 0))
    assert (int(rows[0]) + int(rows[-1]) + 1) / 2 == y
    assert (int(columns[0]) + int(columns[-1]) + 1) / 2 == x


def test_maps_are_spread_over_the_picture_between_their_grid_points(resnet):
    layer = record(resnet, picture(64, 96)).of_picture(picture_size=(128, 288)).layers[0]
    assert layer.size == (4, 6)
    grid = torch.zeros(2, 4, 6)
    grid[0, 2, 3] = 1  # at (y, x) = (65, 145.5)
    grid[1] = torch.arange(6.0)
    spread = layer.spread(grid)
    assert spread.shape == (2, 128, 288)
    assert spread[0, 64, 145] == pytest.approx(spread[0].max()) and spread[0].max() > 0.97
    assert spread[0, 64, 145 + 24] == pytest.approx(0.5, abs=0.02)  # half a step
    assert float(spread[0, :, 200].abs().max()) == 0
    columns = spread[1, 0]
    assert columns[0] == 0 and columns[287] == 5  # the outermost grid points' at the borders
    assert columns[145] == pytest.approx(3, abs=0.02) and columns[73] == pytest.approx(
        1.5, abs=0.02
    )
    # as large as the picture is drawn, not more
    smaller = layer.spread(grid, (32, 72))
    torch.testing.assert_close(smaller[1, 0], columns.view(72, 4).mean(1), rtol=0, atol=0.02)


def test_without_strides():
    torch.manual_seed(0)
    conv = AAConv2d(3, 16, 3, padding=1, num_heads=2, max_size=32, bias=False)
    network = nn.Sequential(conv, nn.ReLU())
    attention = record(network, picture(9, 7)).of_picture()
    assert attention.layers[0].size == (9, 7)
    assert attention.layers[0].step == (1, 1)


def test_the_hooks_go(resnet):
    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in resnet.modules())

    before = hooks()
    record(resnet, picture(32, 32))
    assert hooks() == before
    with pytest.raises(ZeroDivisionError), record_attention(resnet):
        raise ZeroDivisionError
    assert hooks() == before


def test_what_cannot_be_looked_into(resnet):
    with pytest.raises(ValueError, match="has no augmented convolution"):
        record(torchvision.models.resnet18(), picture(32, 32))
    with pytest.raises(ValueError, match="layer2.0.conv1 ran twice"), record_attention(resnet):
        resnet(picture(32, 32))
        resnet(picture(32, 32))
    with record_attention(resnet) as nothing:
        pass
    with pytest.raises(ValueError, match="no forward pass was recorded"):
        nothing.of_picture()


@pytest.mark.parametrize("point", [(-1, 0), (0, 33), (97, 1), (float("nan"), 1)])
def test_a_point_outside_the_picture(resnet, point):
    attention = record(resnet, picture(32, 96)).of_picture()
    with pytest.raises(ValueError, match=r"is outside the picture, 96 x 32 pixels"):
        attention.maps([(1, 1), point])
