"""The report: one self-contained HTML file."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image
from pycocotools.coco import COCO

from ..comparison import Comparison, compare
from ..comparison.comparison import load_annotations, mean_precision
from ..comparison.matching import RECALL_THRESHOLDS, match
from ..comparison.results import read_results
from ..data import CocoDataset
from ..data.images import image_file, read_image
from ..evaluation import coco_ap
from ..evaluation.coco_ap import METRICS
from ..inference import BaseDetector, look
from ..visualization.attention_figure import attention_figure
from ..visualization.contact_sheet import draw_pair
from . import figures
from .images import ImageScore, best_and_worst, score_images
from .runs import TrainedRun

_IMAGES = 4  # best, and as many worst
_CURVES_AT = (0.5, 0.75)  # IoU


@dataclass(frozen=True)
class _Picture:
    caption: str
    source: str  # a data URL


@dataclass(frozen=True)
class _Evaluated:
    """A run with the metrics of its detections."""

    run: TrainedRun
    metrics: dict[str, float]  # AP … APl in percent
    classes: dict[str, float]  # AP by class
    curves: list[tuple[float, np.ndarray, np.ndarray]]  # IoU, recall, precision in percent
    best: list[ImageScore]
    worst: list[ImageScore]
    detections: dict[int, list[dict[str, Any]]]  # by image; those that are drawn


def report_page(
    runs: Sequence[TrainedRun],
    dataset: CocoDataset,
    *,
    detectors: Mapping[str, BaseDetector] | None = None,
    score_threshold: float = 0.5,
) -> str:
    """Return the page as HTML.

    AP is computed from the detections with COCO's own code. Every run after the first is compared
    with the first.

    Args:
        runs: with unique names.
        dataset: the dataset that all their detections belong to.
        detectors: by run name; the page shows their attention on two images.
        score_threshold: for drawing detections and ranking images.

    Raises:
        DatasetError: annotations, detections or images cannot be read or do not belong together.
    """
    coco = load_annotations(dataset.annotation_file)
    evaluated = [_evaluate(run, coco, score_threshold) for run in runs]
    first = evaluated[0]
    content = {
        "title": " and ".join(run.name for run in runs),
        "dataset": dataset,
        "num_images": len(coco.imgs),
        "num_objects": sum(not each["iscrowd"] for each in coco.anns.values()),
        "score_threshold": score_threshold,
        "metric_names": METRICS,
        "evaluated": evaluated,
        "comparisons": [_comparison(coco, other.run, first.run) for other in evaluated[1:]],
        "curves": _training_curves(runs),
        "class_bars": Markup(
            figures.bars({each.run.name: each.classes for each in evaluated}, "AP, %")
        ),
        "precision_recall": Markup(
            figures.precision_recall({each.run.name: each.curves for each in evaluated})
        ),
        "images": [_image_section(each, coco, dataset) for each in evaluated],
        "attention": [
            (each.run.name, _attention(each, coco, dataset, detectors[each.run.name]))
            for each in evaluated
            if detectors and each.run.name in detectors
        ],
        "differing_keys": _differing_keys(runs),
        "configs": [
            (run.name, yaml.safe_dump(run.config, sort_keys=True, allow_unicode=True))
            for run in runs
        ],
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = _percent
    template = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(content)


def _evaluate(run: TrainedRun, coco: COCO, score_threshold: float) -> _Evaluated:
    results = read_results(coco, run.result_file)
    image_ids, category_ids = sorted(coco.imgs), sorted(coco.cats)
    records = [
        {
            "image_id": image_ids[image],
            "category_id": category_ids[category],
            "bbox": box,
            "score": score,
        }
        for image, category, box, score in zip(
            results.images, results.classes, results.boxes.tolist(), results.scores.tolist()
        )
    ]
    drawn: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for record in records:
        if record["score"] >= score_threshold:
            drawn[record["image_id"]].append(record)
    values = coco_ap(coco, records)
    matches = match(coco, results)
    best, worst = best_and_worst(score_images(coco, results, score_threshold), _IMAGES)
    return _Evaluated(
        run=run,
        metrics={name: values[name] for name in METRICS},
        classes={
            category["name"]: values[f"AP-{category['name']}"]
            for _, category in sorted(coco.cats.items())
        },
        curves=[(iou, RECALL_THRESHOLDS, mean_precision(matches, iou)) for iou in _CURVES_AT],
        best=best,
        worst=worst,
        detections=drawn,
    )


def _comparison(coco: COCO, run: TrainedRun, baseline: TrainedRun) -> tuple[Comparison, Markup]:
    names = run.name, baseline.name
    comparison = compare(coco, [run.result_file], [baseline.result_file], names=names)
    rows = {**comparison.metrics, **comparison.per_class}
    return comparison, Markup(figures.differences(rows, f"{names[0]} − {names[1]}, AP"))


def _training_curves(runs: Sequence[TrainedRun]) -> list[tuple[str, Markup]]:
    """Return titles and figures; series with fewer than two points in every run are left out."""
    if len(runs) == 1:
        losses, ap = runs[0].losses, runs[0].evaluations
    else:
        losses = {run.name: run.losses.get("total_loss", []) for run in runs}
        ap = {run.name: run.evaluations.get("AP", []) for run in runs}
    rates = {run.name: run.scalars.get("lr", []) for run in runs}
    found = []
    for title, series, label in (
        ("Losses" if len(runs) == 1 else "Total loss", losses, "loss"),
        ("AP", ap, "%"),
        ("Learning rate", rates, "learning rate"),
    ):
        # one point is not a curve; a run's only evaluation is in the table
        series = {name: points for name, points in series.items() if len(points) > 1}
        if series:
            found.append((title, Markup(figures.curves(series, label, bottom=0))))
    return found


def _image_section(
    evaluated: _Evaluated, coco: COCO, dataset: CocoDataset
) -> tuple[str, list[_Picture], list[_Picture]]:
    best, worst = (
        [_pair(score, evaluated, coco, dataset) for score in scores]
        for scores in (evaluated.best, evaluated.worst)
    )
    return evaluated.run.name, best, worst


def _pair(score: ImageScore, evaluated: _Evaluated, coco: COCO, dataset: CocoDataset) -> _Picture:
    """Draw ground truth beside detections."""
    truth = coco.imgToAnns[score.image_id]
    found = evaluated.detections[score.image_id]
    names = {category_id: category["name"] for category_id, category in coco.cats.items()}
    picture = draw_pair(_read(score, coco, dataset), truth, found, names)
    caption = (
        f"{coco.imgs[score.image_id]['file_name']}: {score.found} found, {score.missed} missed, "
        f"{score.false} false"
    )
    return _Picture(caption, _data_url(picture, "JPEG", quality=88))


def _attention(
    evaluated: _Evaluated, coco: COCO, dataset: CocoDataset, detector: BaseDetector
) -> list[_Picture]:
    """Draw all heads of all layers from the top detection's centre, on a best and a worst image."""
    pictures = []
    for score in (*evaluated.best[:1], *evaluated.worst[:1]):
        image = np.asarray(_read(score, coco, dataset))[:, :, ::-1]
        detections, attention = look(detector, image)
        height, width = image.shape[:2]
        points = [(x, y) for x, y in detections.centres()[:1]] or [(width / 2, height / 2)]
        (figure,) = attention_figure(image, attention, points)
        what = "the surest detection" if len(detections) else "the middle, nothing was found"
        caption = f"{coco.imgs[score.image_id]['file_name']}, from {what}"
        pictures.append(_Picture(caption, _data_url(figure, "JPEG", quality=90)))
    return pictures


def _read(score: ImageScore, coco: COCO, dataset: CocoDataset) -> Image.Image:
    return read_image(image_file(dataset.image_root, coco.imgs[score.image_id]["file_name"]))


def _differing_keys(runs: Sequence[TrainedRun]) -> list[tuple[str, list[str]]]:
    """Return the keys on which the configs differ, with every run's value."""
    flat = [_flat(run.config) for run in runs]
    keys = sorted(set().union(*flat))
    rows = [(key, [str(each.get(key, "–")) for each in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def _data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    data = io.BytesIO()
    picture.save(data, format=kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
