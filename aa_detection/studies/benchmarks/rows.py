"""Rows of figures, by the size of the map or image that they were measured on."""

from collections import defaultdict
from typing import Any

Row = dict[str, Any]  # "height", "width", and what was measured by its name


def by_size(rows: list[Row]) -> list[list[Row]]:
    """The rows of one size together, in the order of the sizes' first."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["height"], row["width"]].append(row)
    return list(groups.values())


def map_size(row: Row) -> str:
    """As ``--sizes`` takes it, such as 40x40."""
    return f"{row['height']}x{row['width']}"
