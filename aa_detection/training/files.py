"""Files of a run that a crash leaves whole, or does not leave."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..config import ConfigError

# what a process that was killed while writing leaves behind
_UNFINISHED = ".unfinished"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """A file to write that has its name only when it is complete and on the disk.

    Until then what was there under that name stays, a kill of the process or a failure of the
    machine included.

    Raises:
        OSError: the file system refuses; its `filename` is `path`.
    """
    path = os.fspath(path)
    unfinished = path + _UNFINISHED
    try:
        with open(unfinished, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        # torch.save raises one of its own in the course of handling the file's
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, path) from None
        raise


def remove_unfinished(output_dir: str | os.PathLike) -> None:
    """Remove what :func:`atomic_write` was at when its process was killed."""
    for path in Path(output_dir).rglob(f"*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def check_output_dir(output_dir: str | os.PathLike) -> None:
    """Make the folder and write a file in it, before hours are spent on what it is to hold.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR {output_dir}: cannot write there: {error.strerror}"
        ) from None


def cut_metrics(path: str | os.PathLike, iteration: int) -> None:
    """Cut ``metrics.json`` back to what a run had written before `iteration`.

    A resumed run goes on from its checkpoint, and the lines of the iterations after it are written
    again. A line that a kill tore goes too.
    """
    path = Path(path)
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _iteration(line) < iteration]
    if kept != lines:
        with atomic_write(path, "w") as file:
            file.writelines(kept)


def _iteration(line: str) -> float:
    if not line.endswith("\n"):
        return float("inf")
    try:
        return json.loads(line)["iteration"]
    except (ValueError, TypeError, KeyError):
        return float("inf")
