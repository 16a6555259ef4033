"""The report's line and bar charts, as inline SVG."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..comparison import Difference
from ..comparison.plots import draw_differences, without_mathematics
from .runs import Series

# distinct, readable on white and on black, and distinguishable by most colour-blind readers
COLOURS = ("#3b82d6", "#e0752d", "#2f9e6e", "#b565c4", "#c9a227", "#6b7a90")
_STYLE = {
    "svg.fonttype": "none",  # real text in the page's font, which can be searched and scaled
    "svg.hashsalt": "aa_detection",  # the same input gives the same page
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def curves(series: Mapping[str, Series], label: str, *, bottom: float | None = None) -> str:
    """Plot lines over the iterations, one per name.

    Args:
        label: of the vertical axis.
        bottom: start of the vertical axis; default, from the data.
    """
    figure, axes = _figure()
    for i, (name, points) in enumerate(series.items()):
        iterations, values = zip(*points)
        marker = "o" if len(points) < 20 else None
        axes.plot(iterations, values, marker=marker, ms=4, color=_colour(i), label=name)
    axes.set(xlabel="iteration", ylabel=label)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    if len(series) > 1:
        axes.legend(frameon=False)
    return _svg(figure)


def bars(values: Mapping[str, Mapping[str, float]], label: str) -> str:
    """Plot groups of horizontal bars, keyed by run, then by name. NaN leaves a gap.

    The names are sorted by the first run's values, the largest on top.
    """
    first = next(iter(values.values()))
    names = sorted(first, key=lambda name: (math.isnan(first[name]), -first[name]))
    height = 0.8 / len(values)
    figure, axes = _figure(height=1.0 + len(names) * (0.18 + 0.12 * len(values)))
    for i, (run, by_name) in enumerate(values.items()):
        places = np.arange(len(names)) + (i - (len(values) - 1) / 2) * height
        axes.barh(places, [by_name[name] for name in names], height, color=_colour(i), label=run)
    axes.set(xlabel=label, xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(range(len(names)), names)
    axes.grid(False, axis="y")
    if len(values) > 1:
        axes.legend(frameon=False)
    return _svg(figure)


def precision_recall(curves: Mapping[str, Sequence[tuple[float, np.ndarray, np.ndarray]]]) -> str:
    """Plot curves by run of (IoU, recalls, precisions in percent); a run's first curve is solid."""
    figure, axes = _figure()
    for i, (run, of_run) in enumerate(curves.items()):
        for (iou, recall, precision), dash in zip(of_run, ("-", "--", ":")):
            axes.plot(recall, precision, dash, color=_colour(i), label=f"{run}, IoU {iou:g}")
    axes.set(xlabel="recall", ylabel="precision, %", xlim=(0, 1), ylim=(0, 101))
    axes.legend(frameon=False)
    return _svg(figure)


def differences(rows: Mapping[str, Difference], label: str) -> str:
    """Plot differences with their intervals, in grey if the interval contains zero."""
    rows = {name: row for name, row in rows.items() if not math.isnan(row.difference)}
    figure, axes = _figure(height=1.0 + 0.25 * len(rows))
    draw_differences(axes, rows)
    axes.set_xlabel(label)
    return _svg(figure)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _figure(height: float = 3.4) -> tuple[Figure, Axes]:
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    without_mathematics(figure)
    text = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]  # an XML declaration is not allowed inside HTML
    return svg.replace("#000000", "currentColor")  # the page's text colour, which may be white
