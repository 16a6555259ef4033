"""A check, before anything is opened for writing, that no output overwrites an input."""

import os
from collections.abc import Iterable
from pathlib import Path

from .config import ConfigError

StrPath = str | os.PathLike[str]
# the user's name for a path, such as an option, and the path; None or empty if it is not set
Named = tuple[str, StrPath | None]
Identity = tuple[int, int]  # device and inode


def refuse_overwriting(reads: Iterable[Named], writes: Iterable[Named]) -> None:
    """Refuse an output that is, contains or lies in an input.

    Files and folders are compared by device and inode, so relative paths, symbolic links, hard
    links and letter case cannot hide a match. A path that does not exist is not an input.

    Args:
        reads: files, and folders from which any file may be read.
        writes: files, and folders to which a file of any name may be written.

    Raises:
        ConfigError: names the output and the input that it would damage.
    """
    inputs = [(name, path, _lineage(path)) for name, path in reads if path and os.path.exists(path)]
    for output_name, output in writes:
        if not output:
            continue
        own, around = _identity(output), _lineage(output)
        for name, path, lineage in inputs:
            if own == lineage[0]:
                relation = "is also"
            elif lineage[0] in around:
                relation = "lies in"
            elif own in lineage:
                relation = "contains"
            else:
                continue
            raise ConfigError(
                f"{output_name} {os.fspath(output)!r} {relation} {name} {os.fspath(path)!r}, which "
                "is read and must not be written over; expected another place"
            )


def _lineage(path: StrPath) -> list[Identity]:
    """Identify a file and the folders around it, innermost first, skipping what does not exist."""
    resolved = Path(path).resolve()
    found = map(_identity, (resolved, *resolved.parents))
    return [identity for identity in found if identity is not None]


def _identity(path: StrPath) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
