import pytest
import torch

from aa_detection.attention import native


def random_inputs(
    batch,
    heads,
    height,
    width,
    d_k=4,
    d_v=3,
    max_size=None,
    dtype=torch.float64,
    channels_last=False,
    seed=0,
):
    """q, k, v, rel_h, rel_w of unit variance, as leaves that require gradients.

    `max_size` is that of the tables, default the map's; either may be None. `channels_last` False
    lays q, k, v out as a convolution's output is, not contiguous in the operator's shape.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def random_map(channels):
        if channels_last:
            return random(batch, heads, height, width, channels)
        return random(batch, heads, channels, height, width).permute(0, 1, 3, 4, 2)

    def random_table(size):
        return None if size is None else random(2 * size - 1, d_k)

    max_h, max_w = (height, width) if max_size is None else max_size
    inputs = [random_map(d_k), random_map(d_k), random_map(d_v)]
    inputs += [random_table(max_h), random_table(max_w)]
    return [x if x is None else x.requires_grad_() for x in inputs]


@pytest.fixture(scope="session", name="random_inputs")
def random_inputs_fixture():
    return random_inputs


@pytest.fixture(autouse=True)
def native_only_where_it_was_built(request):
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("backend") == "native" and native.absent:
        pytest.skip(native.absent)
