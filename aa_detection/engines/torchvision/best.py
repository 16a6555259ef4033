"""``model_best.pth`` and early stopping."""

import os
from typing import Any

from lightning.pytorch import Callback, Trainer

from ...checkpoints import write_trained
from ...training.best import BestMetric
from .module import DetectionModule
from .names import to_detectron2


class KeepBest(Callback):
    """Check every evaluation of a training, including one that a resumed run repeats."""

    def __init__(self, best: BestMetric) -> None:
        self.best = best

    def on_validation_end(self, trainer: Trainer, module: DetectionModule) -> None:
        # only the first process has the metrics
        value = trainer.strategy.broadcast(module.metrics().get(self.best.name, float("nan")))
        if self.best.update(module.iteration, value) and trainer.is_global_zero:
            path = os.path.join(module.cfg.OUTPUT_DIR, "model_best.pth")
            weights = to_detectron2(module.model)
            write_trained(path, weights, module.iteration - 1, module.about)
        trainer.should_stop = trainer.should_stop or self.best.exhausted

    def state_dict(self) -> dict[str, Any]:
        return self.best.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best.load_state_dict(state_dict)
