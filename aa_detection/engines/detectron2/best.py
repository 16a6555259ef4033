"""``model_best.pth`` and early stopping."""

import os
from typing import Any

from detectron2.engine import hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ...checkpoints import write_trained
from ...training.best import BestMetric
from .checkpoint import AACheckpointer


class EarlyStop(BaseException):
    """End detectron2's loop; a BaseException because the loop logs every Exception's traceback."""


class KeepBest(hooks.HookBase):
    """Check every evaluation before it is written to ``metrics.json``.

    An evaluation in that file has therefore been checked, and a resumed run does not repeat it.
    """

    def __init__(self, best: BestMetric, checkpointer: AACheckpointer) -> None:
        self.best = best
        self.checkpointer = checkpointer

    def after_step(self) -> None:
        period, done = self.trainer.cfg.TEST.EVAL_PERIOD, self.trainer.iter + 1
        if period and done % period == 0 and done < self.trainer.max_iter:  # after_train does
            self._check(done)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._check(self.trainer.max_iter)

    def _check(self, iteration: int) -> None:
        results: dict[str, Any] = flatten_results_dict(self.trainer._last_eval_results or {})
        # only the first process has the metrics
        value = comm.all_gather(float(results.get(self.best.name, "nan")))[0]
        if self.best.update(iteration, value) and comm.is_main_process():
            path = os.path.join(self.checkpointer.save_dir, "model_best.pth")
            weights, about = self.checkpointer.saved_model.state_dict(), self.checkpointer.about
            write_trained(path, weights, iteration - 1, about)
