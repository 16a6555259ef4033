"""What a command reads is not written over: one check before it opens anything for writing."""

import os
from collections.abc import Iterable
from pathlib import Path

from .config import ConfigError

StrPath = str | os.PathLike[str]
# what a user knows a path as, such as an option, and the path; None or empty where it is not set
Named = tuple[str, StrPath | None]
Identity = tuple[int, int]  # device and inode


def refuse_overwriting(reads: Iterable[Named], writes: Iterable[Named]) -> None:
    """Refuse an output that is, contains or lies in an input.

    Files and folders are compared as the file system knows them, so that relative paths, symbolic
    links, hard links and the case of letters hide nothing. What does not exist is no input.

    Args:
        reads: files, and folders of which any file may be read.
        writes: files, and folders in which a file of any name may be written.

    Raises:
        ConfigError: names the output, and the input that it would damage.
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
    """What exists of a file and the folders around it, from the inside out."""
    resolved = Path(path).resolve()
    found = map(_identity, (resolved, *resolved.parents))
    return [identity for identity in found if identity is not None]


def _identity(path: StrPath) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
