"""Gradient accumulation over the parts of a batch: ``SOLVER.GRAD_ACCUM_STEPS``."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from detectron2.engine import AMPTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class AccumulatingTrainer(AMPTrainer):
    """Take one step per whole batch while only one part's activations are in memory.

    The loss is the mean over the parts. For RetinaNet and FCOS it equals the whole batch's loss,
    see :class:`HeldNormalizer`; detectron2's other detectors average over the boxes sampled in a
    part.

    Args:
        parts: parts per batch; `data_loader` yields them one by one.
        amp: mixed precision.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        parts: int,
        amp: bool,
    ) -> None:
        scaler = torch.amp.GradScaler("cuda", enabled=amp)
        super().__init__(model, data_loader, optimizer, grad_scaler=scaler)
        self.parts = parts
        self.amp = amp

    def run_step(self) -> None:
        network: Any = self.model
        wrapped = isinstance(network, DistributedDataParallel)
        sums: dict[str, Tensor] = {}
        data_time = 0.0
        self.optimizer.zero_grad()
        with hold_normalizer(network.module if wrapped else network, self.parts) as normalizer:
            for part in range(self.parts):
                start = time.perf_counter()
                data = next(self._data_loader_iter)
                data_time += time.perf_counter() - start
                last = part == self.parts - 1
                with network.no_sync() if wrapped and not last else contextlib.nullcontext():
                    with torch.autocast("cuda", dtype=self.precision, enabled=self.amp):
                        losses = network(data)
                    if isinstance(losses, Tensor):
                        losses = {"total_loss": losses}
                    self.grad_scaler.scale(sum(losses.values()) / self.parts).backward()
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + loss.detach() / self.parts
        factor = normalizer.close()
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if factor != 1 and parameter.grad is not None:
                    parameter.grad.mul_(factor)
        self.after_backward()
        self._write_metrics({name: loss * factor for name, loss in sums.items()}, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if not self.amp:
            del state["grad_scaler"]  # as if the batch had one part
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({"grad_scaler": {}, **state_dict} if not self.amp else state_dict)


class HeldNormalizer:
    """Hold the normalizer of RetinaNet's and FCOS's losses while a batch's parts pass.

    The normalizer is a moving average. It is updated once per batch, with the foreground anchors of
    the whole batch. Their number is known only after the last part, so all parts are divided by the
    previous average, and :meth:`close` returns the factor that corrects the summed gradients. A
    part without any foreground counts as one anchor, as a batch without any does in detectron2.
    """

    def __init__(self, network: Any, parts: int) -> None:
        self.network = network
        self.parts = parts
        self.total = 0.0
        self.how: tuple[str, float, float] | None = None

    def __call__(
        self, name: str, value: float, initial_value: float, momentum: float = 0.9
    ) -> float:
        """Replace ``DenseDetector._ema_update``."""
        self.total += value
        self.how = name, initial_value, momentum
        return self._current(name, initial_value) / self.parts

    def _current(self, name: str, initial_value: float) -> float:
        return float(getattr(self.network, name, initial_value))

    def close(self) -> float:
        """Update the average; return the old average divided by the new."""
        if self.how is None:
            return 1.0
        name, initial_value, momentum = self.how
        before = self._current(name, initial_value)
        return before / float(self.network._ema_update(name, self.total, initial_value, momentum))


@contextlib.contextmanager
def hold_normalizer(network: nn.Module, parts: int) -> Iterator[HeldNormalizer]:
    """Install a :class:`HeldNormalizer` on the network inside ``with``; the caller closes it."""
    normalizer = HeldNormalizer(network, parts)
    if not hasattr(network, "_ema_update"):
        yield normalizer
        return
    network._ema_update = normalizer  # type: ignore[assignment]
    try:
        yield normalizer
    finally:
        del network._ema_update
