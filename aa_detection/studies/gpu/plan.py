"""What is run, and at what sizes."""

from dataclasses import dataclass

import torch

Size = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """The default is for one GPU and under eight minutes; tests take a plan of toy sizes.

    What is listed first is done first, and is what the project's bars are for.

    Args:
        checked_maps: on which backends are compared with the exact result, in pixels.
        timed_maps: on which they are timed.
        dtypes: in which they are compared.
        timed_dtypes: in which they are timed.
        batches: images at a time, where backends are timed.
        images: on which detectors are timed.
        detector_batch: images at a time there.
        recipe_batch, recipe_image: of ``configs/aa_retinanet_R50_1gpu.yaml``, its images padded to
            a multiple of 32.
        training: config keys of the short trainings, on top of the sample dataset's detector.
        dataset: images to draw for them, for training and for evaluation.
        iterations: after so many the first training ends, and after twice as many the resumed one.
        engine: that trains.
        seconds: that the whole may take, its last step not counted.
        case_seconds: of repetitions of what is timed side by side.
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
