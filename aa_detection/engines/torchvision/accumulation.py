"""Steps of the optimizer whose batch comes in parts: ``SOLVER.GRAD_ACCUM_STEPS``.

Lightning counts parts as batches; a step ends with the last part of its batch.
"""

from typing import Any

from lightning.pytorch import Trainer


def begins_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the part that comes is the first of its batch."""
    return bool(batch_idx % trainer.accumulate_grad_batches == 0)


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the part that has come was the last of its batch."""
    return begins_step(trainer, batch_idx + 1)


def count_in_parts(checkpoint: dict[str, Any], before: int, now: int) -> None:
    """Change what a checkpoint has counted, with `before` parts a batch, to `now` parts a batch."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        open_parts = counts["ready"] - counts["completed"]  # a checkpoint is made in the last one
        for key in ("ready", "started", "processed"):
            counts[key] = counts[key] // before * now
        counts["completed"] = counts["ready"] - open_parts
