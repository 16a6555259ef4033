"""Test whether one detector beats another, by paired comparison of result files."""

from .comparison import Comparison, Curve, Difference, compare, precision_recall
from .published import PUBLISHED, PublishedGain

__all__ = [
    "PUBLISHED",
    "Comparison",
    "Curve",
    "Difference",
    "PublishedGain",
    "compare",
    "precision_recall",
]
