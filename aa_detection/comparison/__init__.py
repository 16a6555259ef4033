"""Whether one detector beats another: paired comparison of result files."""

from .comparison import Comparison, Curve, Difference, compare, precision_recall
from .published import PUBLISHED, Published

__all__ = [
    "PUBLISHED",
    "Comparison",
    "Curve",
    "Difference",
    "Published",
    "compare",
    "precision_recall",
]
