"""One metric over the evaluations of a run: which was the best, and how long that is ago."""

import logging
import math
from typing import Any

from fvcore.common.config import CfgNode

_log = logging.getLogger(__name__)


class BestMetric:
    """Follows a metric of which more is better, as it is of all of COCO's.

    Args:
        name: as ``metrics.json`` has it.
        patience: evaluations in a row without a new best that are one too many; 0 for any number.

    Attributes:
        best: the highest value so far.
        iteration: how many iterations were behind the weights at the last evaluation.
        waited: evaluations since the best one.
    """

    def __init__(self, name: str, patience: int) -> None:
        self.name = name
        self.patience = patience
        self.best = -math.inf
        self.iteration = -1
        self.waited = 0

    def update(self, iteration: int, value: float) -> bool:
        """Whether the evaluation after `iteration` iterations is the best so far.

        One that was seen before counts for nothing: a resumed run repeats the last.
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
        """Whether training is to end."""
        return 0 < self.patience <= self.waited

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "iteration": self.iteration, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What a checkpoint had, unless more has been seen since."""
        if state["iteration"] > self.iteration:
            self.best, self.iteration = state["best"], state["iteration"]
            self.waited = state["waited"]


def best_metric(cfg: CfgNode) -> BestMetric | None:
    """What follows ``TEST.BEST_METRIC``; None where that is empty."""
    if not cfg.TEST.BEST_METRIC:
        return None
    return BestMetric(cfg.TEST.BEST_METRIC, cfg.TEST.EARLY_STOPPING_PATIENCE)
