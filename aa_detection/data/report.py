"""Findings of the checks of a dataset."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .catalog import CocoDataset, DatasetError

Record = dict[str, Any]  # an image, category or annotation in COCO's format
_SHOWN_IDS = 5


@dataclass(frozen=True)
class CocoSummary:
    """Contents of a dataset. The tuples are in the order of the category ids."""

    images: int
    unannotated: int  # images without an annotation
    annotations: int
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]

    def __str__(self) -> str:
        unannotated = f" ({self.unannotated} without annotations)" if self.unannotated else ""
        return (
            f"{self.images} images{unannotated}, {self.annotations} annotations, "
            f"{len(self.category_ids)} categories"
        )


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one dataset."""

    kind: str
    is_error: bool
    first: str  # a self-contained line on the first case
    ids: tuple[Any, ...]  # of the first few records; () if it concerns the whole file
    count: int = 1

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.kind}: {self.first}"
        ids = ", ".join(map(str, self.ids)) + (", …" if self.count > len(self.ids) else "")
        return f"{self.kind}, {self.count} times (ids {ids}): {self.first}"


@dataclass
class DatasetReport:
    """Findings of the checks in one dataset."""

    dataset: CocoDataset
    findings: list[Finding] = field(default_factory=list)
    summary: CocoSummary | None = None  # None: the file is not in COCO's format
    seconds: float = 0.0  # without the time to open images
    image_seconds: float = 0.0

    @property
    def errors(self) -> list[Finding]:
        """Return the findings that make training impossible or wrong."""
        return [finding for finding in self.findings if finding.is_error]

    @property
    def warnings(self) -> list[Finding]:
        """Return the findings that training tolerates."""
        return [finding for finding in self.findings if not finding.is_error]

    def add(self, kind: str, first: str, ids: Sequence[Any] = (), *, warning: bool = False) -> None:
        """Add a finding, with the ids of all records that it concerns."""
        shown = tuple(ids[:_SHOWN_IDS])
        self.findings.append(Finding(kind, not warning, first, shown, max(1, len(ids))))

    def note(
        self,
        kind: str,
        annotations: list[Record],
        wrong: Sequence[Any] | np.ndarray,
        what: str,
        *,
        warning: bool = True,
    ) -> None:
        """Add a finding on the annotations for which `wrong` is true, if there are any."""
        if np.any(wrong):
            ids = [each["id"] for each, is_wrong in zip(annotations, wrong) if is_wrong]
            first = f"{self.dataset.annotation_file}: annotation {ids[0]} {what}"
            self.add(kind, first, ids, warning=warning)


def require_usable(reports: Iterable[DatasetReport]) -> None:
    """Refuse datasets with errors.

    Raises:
        DatasetError: the first error, and how many more there are.
    """
    errors = [error for report in reports for error in report.errors]
    if not errors:
        return
    others = sum(error.count for error in errors) - 1
    more = f" (and {others} more: tools/check_dataset.py lists all)" if others else ""
    raise DatasetError(errors[0].first + more)
