"""One or more training runs as one HTML page."""

from .page import report_page
from .runs import TrainedRun, read_run

__all__ = ["TrainedRun", "read_run", "report_page"]
