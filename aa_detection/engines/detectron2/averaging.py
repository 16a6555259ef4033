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
    """Follows the weights after every step, as the embedded engine does: parameters and buffers,
    batch norm's statistics among them; the first step's are the average's beginning.

    A checkpoint has the average for its ``model``, and the weights that training goes on with
    beside it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.average = AveragedModel(model, avg_fn=get_ema_avg_fn(decay), use_buffers=True)

    def after_step(self) -> None:
        self.average.update_parameters(self.model)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average inside ``with``."""
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
        """To be called where the model has the average, as it was loaded from the checkpoint."""
        self.average.module.load_state_dict(self.model.state_dict())
        self.average.n_averaged.copy_(state_dict["n_averaged"])
        self.model.load_state_dict(state_dict["model"])


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(model.parameters(), model.buffers())
