"""The cases and sizes of the GPU check."""

from dataclasses import dataclass

import torch

Size = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """Cases of the check. The default takes one GPU under eight minutes; tests use toy sizes.

    Entries listed first run first, and the project's speed targets apply to them.

    Args:
        checked_maps: map sizes in pixels on which backends are compared with the exact result.
        timed_maps: map sizes on which backends are timed.
        dtypes: dtypes of the comparison.
        timed_dtypes: dtypes of the timing.
        batches: batch sizes for timing backends.
        images: image sizes for timing detectors.
        detector_batch: batch size for timing detectors.
        recipe_batch, recipe_image: those of ``configs/aa_retinanet_R50_1gpu.yaml``, its images
            padded to a multiple of 32.
        training: config keys of the short trainings, on top of the sample dataset's detector.
        dataset: number of images to draw for them, for training and for evaluation.
        iterations: length of the first training; the resumed one ends after twice as many.
        engine: engine of the trainings.
        seconds: time limit of the whole check, excluding its last step.
        case_seconds: time limit for repetitions of cases that are timed side by side.
    """

    checked_maps: tuple[Size, ...] = ((20, 20), (25, 42), (40, 40), (50, 84), (100, 168))
    timed_maps: tuple[Size, ...] = ((50, 84), (40, 40), (20, 20), (100, 168))
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32, torch.float16)
    timed_dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)
    batches: tuple[int, ...] = (8, 2, 16)
    images: tuple[Size, ...] = ((640, 640), (800, 1344))
    detector_batch: int = 2
    recipe_batch: int = 8
    recipe_image: Size = (640, 1088)
    training: tuple[str, ...] = ()
    dataset: Size = (64, 16)
    iterations: int = 20
    engine: str = "auto"
    seconds: float = 470.0
    case_seconds: float = 1.0
