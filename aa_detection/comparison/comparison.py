"""Compare two detectors on the same images: differences with confidence intervals.

There are two sources of variation. The *images* are a sample: they are resampled with replacement,
identically for all runs, and COCO's whole accumulation is repeated on every resample. The *training
run* is the other: the effect of the seed is estimated from the runs of an arm. That is impossible
with one run per arm; the interval then concerns these two detectors, not the two methods.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..data import DatasetError, index_annotations, read_coco_annotations
from .intervals import CONFIDENCE, POWER, interval
from .matching import IOU_THRESHOLDS, RECALL_THRESHOLDS, Matches, match
from .published import PublishedGain
from .resampling import (
    SUMMARIES,
    draw_resamples,
    precision_at_recall,
    resampled_metrics,
)
from .results import CocoResults, DetectionTable, read_results

logger = logging.getLogger(__name__)

ResultFile = str | os.PathLike[str] | CocoResults  # a result file, or its content
_CURVES_AT = (0.5, 0.75)  # IoU


@dataclass(frozen=True)
class Difference:
    """One metric of two arms, in percent; NaN where nothing is annotated."""

    a: float  # mean over the arm's runs
    b: float
    difference: float  # a - b
    low: float  # ends of the 95 % interval of the difference
    high: float
    detectable: float  # the difference that would be shown with a probability of 0.8
    runs_a: tuple[float, ...]
    runs_b: tuple[float, ...]

    @property
    def shown(self) -> bool:
        """Return whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Curve:
    """Precision of both arms, in percent, averaged over classes and runs."""

    iou: float
    recall: tuple[float, ...]  # COCO's 101 thresholds
    a: tuple[float, ...]
    b: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same images. See :func:`compare`."""

    names: tuple[str, str]
    metrics: dict[str, Difference]  # AP, AP50, AP75, APs, APm, APl
    per_class: dict[str, Difference]  # AP by the class's name
    curves: tuple[Curve, ...]  # at IoU 0.5 and 0.75
    images: int
    resamples: int
    seed: int
    published: PublishedGain | None = None

    @property
    def covers_training(self) -> bool:
        """Return whether the intervals include training noise, which takes several runs per arm."""
        ap = self.metrics["AP"]
        return min(len(ap.runs_a), len(ap.runs_b)) > 1

    @property
    def verdict(self) -> str:
        """Return the result for AP as a sentence."""
        ap = self.metrics["AP"]
        if math.isnan(ap.difference):
            return "No verdict: the annotations hold no object to find."
        interval = f"{100 * CONFIDENCE:.0f} % CI {ap.low:.1f}..{ap.high:.1f}"
        if ap.shown:
            better, worse = self.names if ap.difference > 0 else self.names[::-1]
            low, high = sorted((abs(ap.low), abs(ap.high)))
            interval = f"{100 * CONFIDENCE:.0f} % CI {low:.1f}..{high:.1f}"
            text = f"{better} better than {worse} by {abs(ap.difference):.1f} AP, {interval}."
        else:
            text = (
                f"No difference shown between {self.names[0]} and {self.names[1]}: "
                f"{ap.difference:+.1f} AP, {interval}; a difference of {ap.detectable:.1f} AP "
                f"would have been shown with a probability of {POWER:g}."
            )
        if not self.covers_training:
            text += (
                " This covers the sampling of images only, not the noise of training: "
                "it takes several runs of each to tell the methods apart."
            )
        return text

    @property
    def beside_published(self) -> str | None:
        """Return the published difference, and whether the interval contains it."""
        if self.published is None:
            return None
        ap, gain = self.metrics["AP"], self.published.gain
        where = "inside" if ap.low <= gain <= ap.high else "outside"
        return f"Published: {gain:+.2f} AP, {where} the interval ({self.published.source})."

    def to_json(self) -> str:
        """Return everything as JSON; null where nothing is annotated."""
        content = {
            "verdict": self.verdict,
            "covers_training": self.covers_training,
            **asdict(self),
        }
        return json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Return a page with the verdict, the metrics and the classes."""
        a, b = self.names
        ap = self.metrics["AP"]
        runs = [f"{len(runs)} run{'s' * (len(runs) > 1)}" for runs in (ap.runs_a, ap.runs_b)]
        lines = [f"# {a} ({runs[0]}) against {b} ({runs[1]})", "", self.verdict]
        if self.beside_published:
            lines += ["", self.beside_published]
        lines += [
            "",
            f"{self.images} images, {self.resamples} resamples of them, seed {self.seed}. "
            "Intervals are of 95 %; a star stands where zero is outside.",
            "",
            *_table("", self.metrics, self.names),
            "",
            "Of the classes, one interval in twenty leaves out zero by chance.",
            "",
            *_table("AP of class", self.per_class, self.names),
        ]
        for name, values in ((a, ap.runs_a), (b, ap.runs_b)):
            if len(values) > 1:
                spread = f"standard deviation {np.std(values, ddof=1):.2f}"
                listed = ", ".join(f"{value:.2f}" for value in values)
                lines += ["", f"AP of the runs of {name}: {listed} ({spread})."]
        return "\n".join(lines) + "\n"


def compare(
    annotations: str | os.PathLike[str] | COCO,
    a: Sequence[ResultFile],
    b: Sequence[ResultFile],
    *,
    names: tuple[str, str] = ("A", "B"),
    resamples: int = 1000,
    seed: int = 0,
    published: PublishedGain | None = None,
) -> Comparison:
    """Compare two arms of result files on the same annotations.

    Args:
        annotations: in COCO's format, a file or loaded.
        a, b: the runs of each arm, of the same config with different seeds: result files, or lists
            of ``image_id``, ``category_id``, ``bbox`` and ``score``.
        names: of the arms, for the verdict and the tables.
        resamples: number of resamples of the images, at least 100.
        seed: of the resampling.
        published: a difference to report beside the measured one.

    Raises:
        DatasetError: annotations or detections cannot be used, or a file is given twice.
        ValueError: an arm has no run, or there are fewer than 100 resamples.
    """
    if min(len(a), len(b)) < 1 or resamples < 100:
        raise ValueError(
            "expected at least one run an arm and 100 resamples, "
            f"got {len(a)}, {len(b)} and {resamples}"
        )
    coco = load_annotations(annotations)
    arms = [[read_results(coco, run) for run in runs] for runs in (a, b)]
    _refuse_repeated([*a, *b], [*arms[0], *arms[1]])
    weights = draw_resamples(len(coco.imgs), resamples, np.random.default_rng(seed))

    values, curves = [], []  # by arm: (runs, 1 + resamples, 6 + classes); (runs, 2, 101)
    for name, arm in zip(names, arms):
        arm_values, arm_curves = [], []
        for number, results in enumerate(arm, 1):
            run = f"{name}, run {number} of {len(arm)}"
            logger.info("%s: matching and resampling", run)
            matches = match(coco, results, f"{run}, classes matched")
            arm_values.append(resampled_metrics(matches, weights, f"{run}, classes resampled"))
            arm_curves.append([mean_precision(matches, iou) for iou in _CURVES_AT])
        values.append(np.stack(arm_values))
        curves.append(np.mean(arm_curves, axis=0))
    differences = [_difference(*arms) for arms in zip(*(np.moveaxis(v, -1, 0) for v in values))]
    classes = [coco.cats[category_id]["name"] for category_id in sorted(coco.cats)]
    return Comparison(
        names=names,
        metrics=dict(zip((name for name, *_ in SUMMARIES), differences)),
        per_class=dict(zip(classes, differences[len(SUMMARIES) :])),
        curves=tuple(
            Curve(iou, *(tuple(each.tolist()) for each in (RECALL_THRESHOLDS, *pair)))
            for iou, *pair in zip(_CURVES_AT, *curves)
        ),
        images=len(coco.imgs),
        resamples=resamples,
        seed=seed,
        published=published,
    )


def precision_recall(
    annotations: str | os.PathLike[str] | COCO, run: ResultFile, iou: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Return COCO's 101 recalls, and a run's precision at them in percent, averaged over classes.

    Args:
        iou: one of COCO's thresholds, 0.5 to 0.95 in steps of 0.05.

    Raises:
        DatasetError: annotations or detections cannot be used.
        ValueError: another `iou`.
    """
    coco = load_annotations(annotations)
    return RECALL_THRESHOLDS, mean_precision(match(coco, read_results(coco, run)), iou)


def mean_precision(matches: Matches, iou: float) -> np.ndarray:
    """Return (101,) precision at COCO's recalls in percent, averaged over the annotated classes.

    Raises:
        ValueError: as :func:`precision_recall`.
    """
    thresholds = np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou))
    if not len(thresholds):
        raise ValueError(f"expected an IoU of 0.5, 0.55, ... 0.95, got {iou}")
    curves = [precision_at_recall(areas[0], thresholds[0]) for areas in matches.classes]
    annotated = [curve for curve in curves if curve is not None]
    if not annotated:
        return np.full(len(RECALL_THRESHOLDS), np.nan)
    return 100 * np.mean(annotated, axis=0)


def load_annotations(annotations: str | os.PathLike[str] | COCO) -> COCO:
    """Return pycocotools' index of an annotation file, after checking it.

    Raises:
        DatasetError: see :func:`aa_detection.data.read_coco_annotations`; or it has no images.
    """
    if isinstance(annotations, COCO):
        return annotations
    coco = index_annotations(read_coco_annotations(Path(annotations)))
    if not coco.imgs:
        raise DatasetError(f"{annotations}: no images to compare on")
    return coco


def _difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Return the difference of `a` and `b`, (runs, 1 + R) each; see :func:`interval`."""
    means = float(a[:, 0].mean()), float(b[:, 0].mean())
    between = interval(a, b)
    return Difference(
        a=means[0],
        b=means[1],
        difference=means[0] - means[1],
        low=between.low,
        high=between.high,
        detectable=between.detectable,
        runs_a=tuple(a[:, 0].tolist()),
        runs_b=tuple(b[:, 0].tolist()),
    )


def _refuse_repeated(runs: Sequence[ResultFile], results: Sequence[DetectionTable]) -> None:
    """Refuse duplicate runs: they would hide a difference or understate the spread of an arm."""
    seen: dict[str | bytes, str] = {}
    for run, result in zip(runs, results):
        if not isinstance(run, (str, os.PathLike)):
            continue
        keys: list[str | bytes] = [os.path.realpath(run)]
        if len(result.scores):  # runs without detections are equal but not duplicates
            content = (result.images, result.classes, result.boxes, result.scores)
            keys.append(hashlib.sha256(b"".join(each.tobytes() for each in content)).digest())
        for key in keys:
            if key in seen:
                raise DatasetError(
                    f"{os.fspath(run)}: the same detections as {seen[key]}, "
                    "expected a result file of its own for every run"
                )
        seen |= dict.fromkeys(keys, os.fspath(run))


def _table(label: str, rows: dict[str, Difference], names: tuple[str, str]) -> list[str]:
    """Return the lines of a Markdown table."""
    a, b = names
    lines = [
        f"| {label} | {a} | {b} | {a} − {b} | low | high | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, row in rows.items():
        name = name.replace("|", r"\|")
        if math.isnan(row.difference):
            lines.append(f"| {name} | – | – | – | – | – | |")
        else:
            lines.append(
                f"| {name} | {row.a:.2f} | {row.b:.2f} | {row.difference:+.2f} | {row.low:+.2f} "
                f"| {row.high:+.2f} | {'*' * row.shown} |"
            )
    return lines


def _without_nan(value: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
