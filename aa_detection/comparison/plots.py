"""Plots of a comparison of two arms: differences with intervals, precision over recall."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .comparison import Comparison, Difference

SHOWN, NOT_SHOWN = "#3b82d6", "#6b7a90"  # intervals that exclude and contain zero
_ROW = 0.22  # inches
PLOTS = ("metrics.png", "classes.png", "precision_recall.png")


def write_comparison_plots(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the :data:`PLOTS` into `folder`.

    Raises:
        ImportError: matplotlib is not installed; it comes with the extra ``plots``.
    """
    from matplotlib.figure import Figure

    folder = Path(folder)
    classes = dict(
        sorted(comparison.per_class.items(), key=lambda item: _last_if_nan(item[1]), reverse=True)
    )
    figures = (
        _differences(Figure, comparison.metrics, comparison.names),
        _differences(Figure, classes, comparison.names),
        _precision_recall(Figure, comparison),
    )
    for name, figure in zip(PLOTS, figures):
        without_mathematics(figure)
        figure.savefig(folder / name, dpi=120)
    return [folder / name for name in PLOTS]


def draw_differences(axes: Any, rows: Mapping[str, Difference]) -> None:
    """Draw one row per metric or class, top down; grey if the interval contains zero.

    Args:
        axes: matplotlib's.
    """
    for place, row in enumerate(rows.values()):
        if math.isnan(row.difference):
            continue
        colour = SHOWN if row.shown else NOT_SHOWN
        axes.plot((row.low, row.high), (place, place), color=colour, linewidth=1.5)
        axes.plot(row.difference, place, "o", color=colour, markersize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")


def without_mathematics(figure: Any) -> None:
    """Show dollar signs as they are: matplotlib would parse what a name has between two."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)


def _differences(figure_type: type, rows: Mapping[str, Difference], names: tuple[str, str]) -> Any:
    figure = figure_type(figsize=(7, 1.2 + _ROW * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="x", alpha=0.3)
    draw_differences(axes, rows)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(f"{names[0]} − {names[1]}, AP, with 95 % intervals")
    return figure


def _precision_recall(figure_type: type, comparison: Comparison) -> Any:
    """Draw both arms, one panel per IoU threshold."""
    figure = figure_type(figsize=(5 * len(comparison.curves), 4.2), layout="constrained")
    panels = figure.subplots(1, len(comparison.curves), sharey=True)
    for axes, curve in zip(panels, comparison.curves):
        axes.plot(curve.recall, curve.a, color=SHOWN, label=comparison.names[0])
        axes.plot(curve.recall, curve.b, color="#c25b12", label=comparison.names[1])
        axes.set(title=f"IoU {curve.iou:g}", xlabel="recall", xlim=(0, 1), ylim=(0, 100))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("precision in percent, mean over classes")
    panels[0].legend()
    return figure


def _last_if_nan(row: Difference) -> float:
    return -math.inf if math.isnan(row.difference) else row.difference
