"""Rows of figures, grouped by the map or image size."""

from collections import defaultdict
from typing import Any

Row = dict[str, Any]  # "height", "width", and the measured figures by name


def by_size(rows: list[Row]) -> list[list[Row]]:
    """Group the rows by size, in order of first appearance."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["height"], row["width"]].append(row)
    return list(groups.values())


def map_size(row: Row) -> str:
    """Format the size as ``--sizes`` takes it, such as 40x40."""
    return f"{row['height']}x{row['width']}"
