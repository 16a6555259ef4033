"""Check that an exported file computes the same as the network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .formats import Network

SIZES = ((320, 320), (640, 640), (800, 1344))
BATCHES = (1, 2)
TOLERANCE = 1e-4


class DisagreementError(Exception):
    """An exported file does not compute what the network computes."""


@dataclass(frozen=True)
class Agreement:
    """The difference between file and network on one batch.

    Args:
        feature: name of the map that differs most.
        difference: its largest difference, divided by its largest value if that is above 1.
    """

    batch: int
    height: int
    width: int
    feature: str
    difference: float

    def __str__(self) -> str:
        return (
            f"batch {self.batch} of {self.height}x{self.width}: {self.difference:.1e} at "
            f"{self.feature}"
        )


def check(
    backbone: nn.Module,
    exported: Network,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> Iterator[Agreement]:
    """Compare at every size of ``SIZES``, on one image and on a batch whose second image is padded.

    Raises:
        DisagreementError: names or sizes of maps differ, or values by more than ``TOLERANCE``.
    """
    for height, width in SIZES:
        for batch in BATCHES:
            images = padded_batch(batch, height, width, pixel_mean, pixel_std)
            agreement = _compare(backbone, exported, images)
            if not agreement.difference <= TOLERANCE:  # NaN included
                raise DisagreementError(
                    f"the exported file differs from the network: {agreement}, more than "
                    f"{TOLERANCE:.0e}"
                )
            yield agreement


def padded_batch(
    batch: int,
    height: int,
    width: int,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> Tensor:
    """Return normalised random images; all but the first are smaller, oddly so, and zero-padded."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, height // 16, width // 16, generator=generator)
    fine = torch.rand(batch, 3, height, width, generator=generator)
    # coarse patches and noise, so that every pyramid level has a signal
    images = 200 * nn.functional.interpolate(coarse, (height, width)) + 55 * fine
    mean, std = (images.new_tensor(x)[:, None, None] for x in (pixel_mean, pixel_std))
    images = (images - mean) / std
    for image in images[1:]:
        image[:, height * 3 // 4 + 1 :] = 0
        image[:, :, width // 2 + 3 :] = 0
    return images


@torch.no_grad()
def _compare(backbone: nn.Module, exported: Network, images: Tensor) -> Agreement:
    batch, _, height, width = images.shape
    expected = backbone(images)
    try:
        got = exported(images)
    except AssertionError as error:  # raised by a guard that tracing left in the graph
        raise DisagreementError(
            f"the exported file does not take the batch of {tuple(images.shape)} that the network "
            f"takes: {error}"
        ) from None
    shapes, got_shapes = ({k: tuple(v.shape) for k, v in x.items()} for x in (expected, got))
    if shapes != got_shapes:
        raise DisagreementError(
            f"the exported file differs from the network: its maps of {tuple(images.shape)} are "
            f"{got_shapes}, expected {shapes}"
        )
    differences = {
        name: ((got[name] - x).abs().max() / x.abs().max().clamp(min=1)).item()
        for name, x in expected.items()
    }
    # NaN counts as the largest
    worst = max(
        differences, key=lambda name: (differences[name] != differences[name], differences[name])
    )
    return Agreement(batch, height, width, worst, differences[worst])
