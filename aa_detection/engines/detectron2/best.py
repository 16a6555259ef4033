"""``model_best.pth``, and what ends a training that does not get better."""

import os
from typing import Any

from detectron2.engine import hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ...checkpoints import write_trained
from ...training.best import BestMetric
from .checkpoint import AACheckpointer


class EarlyStop(BaseException):
    """Ends detectron2's loop, which logs the traceback of every Exception."""


class KeepBest(hooks.HookBase):
    """Looks at every evaluation, before it is in ``metrics.json``.

    An evaluation that stands there has been looked at, and a resumed run does not repeat it.
    """

    def __init__(self, best: BestMetric, checkpointer: AACheckpointer) -> None:
        self.best = best
        self.checkpointer = checkpointer

    def after_step(self) -> None:
        period, done = self.trainer.cfg.TEST.EVAL_PERIOD, self.trainer.iter + 1
        if period and done % period == 0 and done < self.trainer.max_iter:  # the end looks, too
            self._look(done)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._look(self.trainer.max_iter)

    def _look(self, iteration: int) -> None:
        results: dict[str, Any] = flatten_results_dict(self.trainer._last_eval_results or {})
        # the metrics are the first process's
        value = comm.all_gather(float(results.get(self.best.name, "nan")))[0]
        if self.best.update(iteration, value) and comm.is_main_process():
            path = os.path.join(self.checkpointer.save_dir, "model_best.pth")
            weights, about = self.checkpointer.used.state_dict(), self.checkpointer.about
            write_trained(path, weights, iteration - 1, about)
