"""Confidence intervals of the difference of two arms, from resampled images and repeated runs."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """Interval of the difference of two arms."""

    low: float
    high: float
    detectable: float  # the difference whose interval excludes zero with a probability of POWER


def interval(a: np.ndarray, b: np.ndarray) -> Interval:
    """Return the 95 % interval of mean(a) - mean(b).

    With one run in an arm, it is made of percentiles of the resampled differences: only the images
    vary.

    With several runs in both arms, the variance of the difference is that of the resampled
    differences (same runs, other images) plus, for each arm of n runs, the variance of training
    over n. The variance between runs overstates that of training, because runs would differ
    otherwise on other images. This part is already in the resampled differences, so it is estimated
    from them and subtracted. As runs are few, the interval uses a t distribution, with the degrees
    of freedom of Welch and Satterthwaite. Resampling the runs as well, the hierarchical bootstrap,
    counts the effect of images on runs twice, sees only (n - 1) / n of the variance between runs
    and ignores the t distribution: with few runs it is too narrow where training varies more than
    images do.

    Args:
        a, b: (runs, 1 + R) a metric on all images, then on each of R resamples. Resamples with NaN
            are ignored.
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
    """Return, for the mean of n runs, the variance due to training and s² / n between runs."""
    runs = len(arm)
    between = arm[:, 0].var(ddof=1)
    deviations = arm[:, 1:][:, present]
    deviations = deviations - deviations.mean(axis=0)
    of_images = deviations.var(axis=1, ddof=1).sum() / (runs - 1)
    return max(0.0, between - of_images) / runs, between / runs
