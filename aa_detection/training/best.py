"""Track one metric over a run's evaluations: the best value, and how long ago it was."""

import logging
import math
from typing import Any

from fvcore.common.config import CfgNode

_log = logging.getLogger(__name__)


class BestMetric:
    """Track a metric where higher is better, as for all COCO metrics.

    Args:
        name: the metric's name in ``metrics.json``.
        patience: stop after this many evaluations in a row without a new best; 0: never.

    Attributes:
        best: the highest value so far.
        iteration: iterations trained at the last evaluation.
        waited: evaluations since the best one.
    """

    def __init__(self, name: str, patience: int) -> None:
        self.name = name
        self.patience = patience
        self.best = -math.inf
        self.iteration = -1
        self.waited = 0

    def update(self, iteration: int, value: float) -> bool:
        """Return whether the evaluation after `iteration` iterations is the best so far.

        An evaluation that was seen before is ignored: a resumed run repeats the last one.
        """
        if iteration <= self.iteration:
            return False
        self.iteration = iteration
        if value > self.best:
            _log.info("%s %.3f at iteration %d is the best so far", self.name, value, iteration)
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        if math.isnan(value):
            _log.warning("%s is not a number: DATASETS.TEST has nothing to tell it by", self.name)
        if self.exhausted:
            _log.info(
                "training ends: %d evaluations have not raised %s above %.3f",
                self.waited,
                self.name,
                self.best,
            )
        return False

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return 0 < self.patience <= self.waited

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "iteration": self.iteration, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state, unless later evaluations have been seen."""
        if state["iteration"] > self.iteration:
            self.best, self.iteration = state["best"], state["iteration"]
            self.waited = state["waited"]


def best_metric(cfg: CfgNode) -> BestMetric | None:
    """Create the tracker for ``TEST.BEST_METRIC``; None if that is empty."""
    if not cfg.TEST.BEST_METRIC:
        return None
    return BestMetric(cfg.TEST.BEST_METRIC, cfg.TEST.EARLY_STOPPING_PATIENCE)
