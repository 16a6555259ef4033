"""Steps of the optimizer whose batch comes in parts: ``SOLVER.GRAD_ACCUM_STEPS``."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from detectron2.engine import AMPTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class AccumulatingTrainer(AMPTrainer):
    """Takes the step of a whole batch, of which only a part has its activations in memory.

    The loss is the mean over the parts. That of RetinaNet and FCOS is the whole batch's, see
    :class:`HeldNormalizer`; others of detectron2's average over what a part has sampled.

    Args:
        parts: of a batch; `data_loader` gives them one by one.
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
            del state["grad_scaler"]  # as of a batch in one part
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({"grad_scaler": {}, **state_dict} if not self.amp else state_dict)


class HeldNormalizer:
    """Keeps the average that RetinaNet and FCOS divide their losses by while a batch's parts pass.

    The average moves once a batch, by the foreground anchors of all of it. They are known after
    the last part, so that all are divided by the average before, and :meth:`close` says what the
    gradients' sum is to be multiplied by. A part without any foreground counts as one anchor, as
    detectron2 counts a batch without.
    """

    def __init__(self, network: Any, parts: int) -> None:
        self.network = network
        self.parts = parts
        self.total = 0.0
        self.how: tuple[str, float, float] | None = None

    def __call__(
        self, name: str, value: float, initial_value: float, momentum: float = 0.9
    ) -> float:
        """In place of ``DenseDetector._ema_update``."""
        self.total += value
        self.how = name, initial_value, momentum
        return self._current(name, initial_value) / self.parts

    def _current(self, name: str, initial_value: float) -> float:
        return float(getattr(self.network, name, initial_value))

    def close(self) -> float:
        """Move the average; the old one over the new."""
        if self.how is None:
            return 1.0
        name, initial_value, momentum = self.how
        before = self._current(name, initial_value)
        return before / float(self.network._ema_update(name, self.total, initial_value, momentum))


@contextlib.contextmanager
def hold_normalizer(network: nn.Module, parts: int) -> Iterator[HeldNormalizer]:
    """A :class:`HeldNormalizer` of the network's inside ``with``, to be closed after it."""
    normalizer = HeldNormalizer(network, parts)
    if not hasattr(network, "_ema_update"):
        yield normalizer
        return
    network._ema_update = normalizer  # type: ignore[assignment]
    try:
        yield normalizer
    finally:
        del network._ema_update
