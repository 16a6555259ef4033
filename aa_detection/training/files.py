"""Files of a run that a crash leaves whole, or does not leave."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..config import ConfigError

# what a process that was killed while writing leaves behind
UNFINISHED = ".unfinished"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write that has its name only when it is complete and on the disk.

    Until then what was there under that name stays, a kill of the process or a failure of the
    machine included.

    Raises:
        OSError: the file system refuses; its `filename` is `path`.
    """
    path = os.fspath(path)
    unfinished = path + UNFINISHED
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


def remove_unfinished(output_dir: str | os.PathLike[str]) -> None:
    """Remove what :func:`atomic_write` was at when its process was killed."""
    for path in list(Path(output_dir).rglob(f"*{UNFINISHED}")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_output_dir(output_dir: str | os.PathLike[str]) -> None:
    """Make the folder and write a file in it, before hours are spent on what it is to hold.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as file:
            file.write(bytes(4096))
            file.flush()
    except FileExistsError:
        raise ConfigError(f"OUTPUT_DIR {output_dir}: is a file, expected a folder") from None
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR {output_dir}: cannot write there: {error.strerror}"
        ) from None


def cut_metrics(path: str | os.PathLike[str], iteration: int) -> None:
    """Cut off the end of ``metrics.json`` that was written at `iteration` and after.

    A resumed run goes on from its checkpoint, and the lines of the iterations after it are written
    again. A line that a kill tore goes too. Whoever has the file open to append to it still has.
    """
    path = Path(path)
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    while lines and not _is_before(lines[-1], iteration):
        lines.pop()
    os.truncate(path, sum(map(len, lines)))


def _is_before(line: bytes, iteration: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["iteration"] < iteration
    except (ValueError, TypeError, KeyError):
        return False
