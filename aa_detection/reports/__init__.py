"""A training run, or several, as one HTML page."""

from .page import report_page
from .runs import Run, read_run

__all__ = ["Run", "read_run", "report_page"]
