"""Looks at every step: a loss that is no number, a wish to stop."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from .failures import RunError
from .interrupt import StopSignals

T = TypeVar("T")


class StepGuard:
    """Of one process, in agreement with the others.

    Args:
        stop: of this process.
        last_checkpoint: path of the newest complete one, None before the first.

    Attributes:
        stopping: the run is to end after the step that was checked last; the same in all processes.
    """

    def __init__(self, stop: StopSignals, last_checkpoint: Callable[[], str | None]) -> None:
        self.stop = stop
        self.last_checkpoint = last_checkpoint
        self.stopping = False

    def check_losses(
        self, losses: Mapping[str, Tensor], image_ids: Sequence[Any], iteration: int
    ) -> None:
        """To be called by all processes, before the weights change.

        The losses are those before a gradient scaler's factor, so that a step which the scaler
        skips, to find a factor that fits, is none to stop at.

        Raises:
            RunError: a loss of some process is infinite or NaN; has the iteration, the images of
                all processes' batches and the last checkpoint.
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
    """To be called before a checkpoint takes the place of the last.

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
    """Each true where it is in any process."""
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
