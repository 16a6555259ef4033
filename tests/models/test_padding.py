"""An image's features must not depend on what its batch is padded with."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from aa_detection.layers import AAConv2d
from aa_detection.models import AttentionSpec, augment, real_size

STAGES = ["res2", "res3", "res4", "res5"]
SPEC = AttentionSpec(max_image_size=64, num_heads=4, mask_padding="all")
PLAIN = AttentionSpec(conv="", mask_padding="all")
ADDED = dataclasses.replace(SPEC, merge="add")
SIZES = [(47, 65), (70, 31), (33, 34), (64, 64)]


def padded(images, divisor=32):
    """One batch, zeros at the bottom and right, sides multiples of `divisor` as detectors do it."""
    height, width = (
        -(-max(image.shape[axis] for image in images) // divisor) * divisor for axis in (1, 2)
    )
    batch = images[0].new_zeros(len(images), 3, height, width)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def worst_difference(network, images, batch):
    """Largest difference between features alone and in the batch, over the features' largest."""
    together = network(batch)
    worst = 0.0
    for index, image in enumerate(images):
        for stage, alone in network(image[None]).items():
            height, width = alone.shape[2:]
            found = together[stage][index, :, :height, :width]
            worst = max(worst, float((found - alone[0]).abs().max() / alone.abs().max()))
    return worst


@pytest.mark.parametrize(
    ("framework", "depth", "options"),
    [
        ("torchvision", 18, {}),
        ("torchvision", 50, {}),
        ("detectron2", 18, {}),
        ("detectron2", 50, {}),
        ("detectron2", 50, {"stride_in_1x1": True}),
    ],
    ids=[
        "torchvision-18",
        "torchvision-50",
        "detectron2-18",
        "detectron2-50",
        "detectron2-50-msra",
    ],
)
@torch.no_grad()
def test_features_alone_equal_features_in_a_padded_batch(
    build, randomise_norms, framework, depth, options
):
    network = randomise_norms(build(framework, depth, stages=STAGES, **options)).eval()
    blind = augment(copy.deepcopy(network), AttentionSpec(max_image_size=64, mask_padding="none"))
    augment(network, SPEC)
    images = [torch.randn(3, *size) for size in SIZES]
    batch = padded(images)
    assert worst_difference(network, images, batch) < 1e-4
    # or the above would prove nothing
    assert worst_difference(blind, images[:1], batch[:1]) > 1e-2

    images = [image.double() for image in images]
    assert worst_difference(network.double(), images, batch.double()) < 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"stages": ("res2", "res5"), "pool_stages": ()},
        {"pool_stages": STAGES[1:]},
        {"merge": "add"},
    ],
    ids=str,
)
@torch.no_grad()
def test_features_alone_for_other_options(build, randomise_norms, options):
    network = randomise_norms(build("torchvision", 18, stages=STAGES)).eval().double()
    augment(network, dataclasses.replace(SPEC, **options))
    _randomise_projections(network)
    images = [torch.randn(3, *size, dtype=torch.float64) for size in SIZES]
    assert worst_difference(network, images, padded(images)) < 1e-9


@pytest.mark.parametrize(
    ("conv", "gate"), [("aw", ""), ("", "se"), ("", "cbam"), ("aw", "cbam"), ("aa", "se")]
)
@pytest.mark.parametrize(("framework", "depth"), [("torchvision", 18), ("detectron2", 50)])
@torch.no_grad()
def test_features_alone_for_aw_and_gates(build, randomise_norms, framework, depth, conv, gate):
    network = randomise_norms(build(framework, depth, stages=STAGES)).eval().double()
    spec = dataclasses.replace(SPEC, conv=conv, gate=gate, stages=STAGES)
    blind = augment(copy.deepcopy(network), dataclasses.replace(spec, mask_padding="none"))
    augment(network, spec)
    images = [torch.randn(3, *size, dtype=torch.float64) for size in SIZES]
    assert worst_difference(network, images, padded(images)) < 1e-9
    assert worst_difference(blind, images[:1], padded(images)[:1]) > 1e-3


def _randomise_projections(network):
    """Added attention starts at zero, where nothing would show."""
    for module in network.modules():
        if isinstance(module, AAConv2d):
            torch.nn.init.xavier_uniform_(module.proj.weight)


@pytest.mark.parametrize("merge", ["concat", "add"])
@pytest.mark.parametrize(("framework", "depth"), [("torchvision", 18), ("detectron2", 50)])
def test_attention_behind_frozen_norms_moves_every_parameter_in_two_steps(
    build, randomise_norms, framework, depth, merge
):
    network = randomise_norms(build(framework, depth, norm="FrozenBN", stages=STAGES)).train()
    spec = dataclasses.replace(SPEC, merge=merge)
    augment(network.double(), spec)  # a table's first steps are too small for float32
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    batch = padded([torch.randn(3, *size, dtype=torch.float64) for size in SIZES[:2]])
    for _ in range(2):
        optimizer.zero_grad()
        sum((f * torch.randn_like(f)).mean() for f in network(batch).values()).backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        assert parameter.isfinite().all() and not torch.equal(parameter, start[name]), name


@pytest.mark.parametrize("spec", [SPEC, PLAIN, dataclasses.replace(SPEC, conv="aw", gate="cbam")])
@pytest.mark.parametrize(
    ("framework", "depth"), [("torchvision", 18), ("torchvision", 50), ("detectron2", 50)]
)
@torch.no_grad()
def test_padding_of_the_batch_and_of_the_image_alone(
    build, randomise_norms, framework, depth, spec
):
    """With "batch" an image has the features it has alone, padded as a detector pads it alone."""
    network = randomise_norms(build(framework, depth, stages=STAGES)).eval().double()
    augmented, blind = (
        augment(copy.deepcopy(network), dataclasses.replace(spec, mask_padding=mask))
        for mask in ("batch", "none")
    )
    blind.load_state_dict(augmented.state_dict())
    images = [torch.randn(3, *size, dtype=torch.float64) for size in SIZES]
    alone = [padded([image]) for image in images]
    assert worst_difference(augmented, [image[0] for image in alone], padded(images, 96)) < 1e-9
    assert worst_difference(blind, [image[0] for image in alone], padded(images, 96)) > 1e-2
    if spec is PLAIN:  # alone it is the network without a mask
        for stage, features in augmented(alone[0]).items():
            assert torch.equal(features, network(alone[0])[stage]), stage


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
@torch.no_grad()
def test_mask_for_attention_alone_leaves_convolutions_what_they_see(
    build, randomise_norms, framework
):
    network = randomise_norms(build(framework, 18, stages=STAGES)).eval()
    plain = copy.deepcopy(network)
    augment(network, dataclasses.replace(ADDED, mask_padding="attention"))
    batch = padded([torch.randn(3, *size) for size in SIZES])
    for stage, features in network(batch).items():
        assert torch.equal(features, plain(batch)[stage]), stage
    sizes = [m.valid_size for m in network.modules() if isinstance(m, AAConv2d)]
    assert all(size is not None for size in sizes)
    assert sizes[-1].tolist() == [[-(-h // 32), -(-w // 32)] for h, w in SIZES]


@torch.no_grad()
def test_more_padding_changes_nothing(build, randomise_norms):
    network = randomise_norms(build("torchvision", 18, stages=STAGES)).eval().double()
    augment(network, SPEC)
    images = [torch.randn(3, *size, dtype=torch.float64) for size in SIZES[:2]]
    assert worst_difference(network, images, padded(images, divisor=128)) < 1e-9


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
@torch.no_grad()
def test_batch_without_padding_is_bit_identical_with_and_without_mask(build, framework):
    network = build(framework, 18, stages=STAGES).eval()
    blind = copy.deepcopy(network)
    torch.manual_seed(1)
    augment(network, AttentionSpec(max_image_size=64, mask_padding="all"))
    torch.manual_seed(1)
    augment(blind, AttentionSpec(max_image_size=64, mask_padding="none"))
    images = torch.randn(2, 3, 47, 65)

    def assert_same():
        for stage, features in network(images).items():
            assert torch.equal(features, blind(images)[stage]), stage

    assert_same()
    network(padded([images[0], images[1, :, :30, :30]]))  # must leave nothing behind
    assert_same()
    assert all(m.valid_size is None for m in network.modules() if isinstance(m, AAConv2d))


@torch.no_grad()
def test_image_without_a_real_pixel_and_no_images_at_all(build):
    network = augment(build("torchvision", 18, stages=STAGES).eval(), SPEC)
    images = torch.zeros(2, 3, 64, 40)
    images[1, :, :50] = torch.randn(3, 50, 40)
    assert all(features.isfinite().all() for features in network(images).values())
    assert network(images[:0])["res5"].shape == (0, 512, 2, 2)


@pytest.mark.parametrize(
    ("framework", "depth"),
    [("torchvision", 18), ("torchvision", 50), ("detectron2", 18), ("detectron2", 50)],
)
@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("BN", {}),
        ("BN", {"conv": "aw", "gate": "se"}),
        ("BN", {"conv": "aw", "gate": "cbam"}),
        ("FrozenBN", {"conv": "", "gate": "cbam"}),
    ],
    ids=str,
)
def test_every_parameter_receives_a_gradient_in_training(
    build, randomise_norms, framework, depth, norm, kind
):
    network = randomise_norms(build(framework, depth, norm=norm, stages=STAGES)).train()
    augment(network, dataclasses.replace(SPEC, **kind))
    batch = padded([torch.randn(3, *size) for size in SIZES[:2]])
    loss = sum((f * torch.randn_like(f)).mean() for f in network(batch).values())
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"no gradient for {name}"
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, f"zero gradient for {name}"


def canvas(height, width, *boxes):
    """``(3, height, width)`` zeros with ones in each ``(top, bottom, left, right)``."""
    image = torch.zeros(3, height, width)
    for top, bottom, left, right in boxes:
        image[:, top:bottom, left:right] = 1
    return image


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (canvas(6, 9, (0, 6, 0, 9)), (6, 9)),
        (canvas(6, 9, (0, 4, 0, 5)), (4, 5)),
        (canvas(6, 9, (0, 6, 0, 1)), (6, 1)),
        (canvas(6, 9), (0, 0)),
        (canvas(6, 9, (3, 4, 7, 8)), (4, 8)),  # zeros above and to the left belong to the image
        (canvas(6, 9, (0, 1, 0, 9), (0, 6, 0, 1)), (6, 9)),  # and so do those inside of it
        (canvas(6, 9, (0, 2, 0, 2), (4, 5, 5, 6)), (5, 6)),
        (-canvas(6, 9, (0, 4, 0, 5)), (4, 5)),  # below the mean is not zero
        (canvas(6, 9, (0, 4, 0, 5)) * torch.tensor([0.0, 0.0, 1e-30])[:, None, None], (4, 5)),
    ],
)
def test_real_size(image, size):
    found = real_size(torch.stack([image, canvas(6, 9, (0, 2, 0, 3))]))
    assert found.dtype == torch.int64
    assert found.tolist() == [list(size), [2, 3]]


def test_black_border_is_real_when_the_mean_is_no_whole_number():
    mean = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    picture = torch.randint(0, 256, (3, 20, 24)).float()
    picture[:, 12:] = 0  # a letterbox
    picture[:, :, 21:] = 0
    batch = F.pad(picture - mean, (0, 8, 0, 12))[None]
    assert real_size(batch).tolist() == [[20, 24]]
    # with a mean of zero the border is gone: such a configuration must not mask padding
    assert real_size(F.pad(picture, (0, 8, 0, 12))[None]).tolist() == [[12, 21]]
