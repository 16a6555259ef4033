"""Confidence intervals of the difference of two arms, from resampled images and repeated runs."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """Of the difference of two arms."""

    low: float
    high: float
    detectable: float  # the difference whose interval leaves out zero with a probability of POWER


def interval(a: np.ndarray, b: np.ndarray) -> Interval:
    """The 95 % interval of mean(a) - mean(b).

    With one run in an arm, percentiles of the resampled differences: images are all that varies.

    With several in both, the variance of the difference is that of the resampled differences (the
    runs as they are, other images) and, for each arm of n runs, the variance between its runs over
    n. Runs differ on the sampled images by more than their training: on other images they would
    differ otherwise. That part is in the resampled differences already, is estimated from them
    and is not counted twice. The few runs make it a t distribution, its degrees of freedom
    after Welch and Satterthwaite. Resampling runs as well, the hierarchical bootstrap, counts what
    images do to runs twice, sees (n - 1) / n of the variance between runs and knows no t: with few
    runs it is too narrow where training varies more than images do.

    Args:
        a, b: (runs, 1 + R) a metric on all images, and on each of R resamples. Resamples with NaN
            are left out.
    """
    draws = a[:, 1:].mean(axis=0) - b[:, 1:].mean(axis=0)
    present = ~np.isnan(draws)
    if np.isnan(a[:, 0]).any() or present.sum() < 2:
        return Interval(math.nan, math.nan, math.nan)
    draws = draws[present]
    tail = (1 - CONFIDENCE) / 2
    variance, degrees = draws.var(ddof=1), math.inf
    if min(len(a), len(b)) > 1:
        training = [_variances_of_training(arm, present) for arm in (a, b)]
        variance += sum(extra for extra, _ in training)
        welch = sum(between**2 / (len(arm) - 1) for (_, between), arm in zip(training, (a, b)))
        degrees = variance**2 / welch if welch else math.inf
    error = math.sqrt(variance)
    reach = float(stdtrit(degrees, 1 - tail)) * error
    detectable = reach + float(stdtrit(degrees, POWER)) * error
    if math.isinf(degrees):
        low, high = np.quantile(draws, (tail, 1 - tail)).tolist()
    else:
        middle = float(a[:, 0].mean() - b[:, 0].mean())
        low, high = middle - reach, middle + reach
    return Interval(low, high, detectable)


def _variances_of_training(arm: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """Of the mean of an arm's n runs: the variance that training adds, and s² / n between runs."""
    runs = len(arm)
    between = arm[:, 0].var(ddof=1)
    deviations = arm[:, 1:][:, present]
    deviations = deviations - deviations.mean(axis=0)
    of_images = deviations.var(axis=1, ddof=1).sum() / (runs - 1)
    return max(0.0, between - of_images) / runs, between / runs
