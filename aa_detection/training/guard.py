"""Per-step checks: stop on a loss that is not finite, or on request."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from .failures import RunError
from .interrupt import StopSignals

T = TypeVar("T")


class StepGuard:
    """Check each step of one process and agree on the outcome with the others.

    Args:
        stop: signals of this process.
        last_checkpoint: returns the path of the newest complete checkpoint, None before the first.

    Attributes:
        stopping: the run is to stop after the last checked step; the same in all processes.
    """

    def __init__(self, stop: StopSignals, last_checkpoint: Callable[[], str | None]) -> None:
        self.stop = stop
        self.last_checkpoint = last_checkpoint
        self.stopping = False

    def check_losses(
        self, losses: Mapping[str, Tensor], image_ids: Sequence[Any], iteration: int
    ) -> None:
        """Check the losses; all processes must call it before the weights change.

        Pass the losses before the gradient scaler multiplies them: the scaler skips steps while it
        looks for a factor that fits, and these must not stop the run.

        Raises:
            RunError: a process's loss is infinite or NaN; names the iteration, the images of all
                processes' batches and the last checkpoint.
        """
        values = torch.stack([loss.detach().float().reshape(()) for loss in losses.values()])
        bad = not math.isfinite(float(values.sum()))
        any_bad, self.stopping = _agree(bad, self.stop.received is not None, values.device)
        if not any_bad:
            return
        shown = ", ".join(f"{n} {v:.4g}" for n, v in zip(losses, values.tolist()))
        batches = _gather((shown if bad else None, list(image_ids)))
        shown = next(text for text, _ in batches if text)
        ids = ", ".join(str(i) for _, batch in batches for i in batch)
        raise RunError(
            f"iteration {iteration}: the loss is not finite ({shown}); images of the batch: {ids}; "
            f"{_left(self.last_checkpoint())}; a lower SOLVER.BASE_LR or "
            "SOLVER.CLIP_GRADIENTS.ENABLED may help"
        )


def check_weights(model: nn.Module, iteration: int | None, last_checkpoint: str | None) -> None:
    """Check the weights; call it before a checkpoint replaces the last one.

    Raises:
        RunError: a weight or a norm's statistic is infinite or NaN.
    """
    bad = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if bad:
        when = "" if iteration is None else f"iteration {iteration}: "
        raise RunError(
            f"{when}{len(bad)} tensors of the model are not finite, {bad[0]} first: no checkpoint "
            f"is written; {_left(last_checkpoint)}"
        )


def _left(checkpoint: str | None) -> str:
    return f"last good checkpoint: {checkpoint}" if checkpoint else "no checkpoint was written"


def _agree(bad: bool, stop: bool, device: torch.device) -> tuple[bool, bool]:
    """Return each flag as true if it is true in any process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return bad, stop
    flags = torch.tensor([bad, stop], dtype=torch.int32, device=device)
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return tuple(flags.bool().tolist())


def _gather(value: T) -> list[T]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
