"""Gradient accumulation over the parts of a batch: ``SOLVER.GRAD_ACCUM_STEPS``.

Lightning counts each part as a batch; an optimizer step ends with the last part.
"""

from typing import Any

from lightning.pytorch import Trainer


def begins_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the next part is the first of its batch."""
    return bool(batch_idx % trainer.accumulate_grad_batches == 0)


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the current part is the last of its batch."""
    return begins_step(trainer, batch_idx + 1)


def count_in_parts(checkpoint: dict[str, Any], before: int, now: int) -> None:
    """Convert a checkpoint's counters from `before` parts per batch to `now`."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        open_parts = counts["ready"] - counts["completed"]  # checkpoints are made in the last part
        for key in ("ready", "started", "processed"):
            counts[key] = counts[key] // before * now
        counts["completed"] = counts["ready"] - open_parts
