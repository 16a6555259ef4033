"""The exponential moving average of the weights, ``SOLVER.EMA.DECAY``."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine import hooks
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn


class Averaging(hooks.HookBase):
    """Average parameters and buffers, batch norm's statistics included, after every step.

    The average starts with the weights after the first step, as in the embedded engine. A
    checkpoint stores the average as its ``model``, and the weights that training continues with
    beside it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.average = AveragedModel(model, avg_fn=get_ema_avg_fn(decay), use_buffers=True)

    def after_step(self) -> None:
        self.average.update_parameters(self.model)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the average into the model inside ``with``."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mine, models in zip(_tensors(self.average.module), _tensors(self.model)):
            kept = mine.clone()
            mine.copy_(models)
            models.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "n_averaged": self.average.n_averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; the model must hold the average loaded from the checkpoint."""
        self.average.module.load_state_dict(self.model.state_dict())
        self.average.n_averaged.copy_(state_dict["n_averaged"])
        self.model.load_state_dict(state_dict["model"])


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(model.parameters(), model.buffers())
