"""Atomic file writes: after a crash a file is complete or absent."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# suffix of the file that a process killed while writing leaves behind
UNFINISHED = ".unfinished"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that gets its name only when it is complete and on disk.

    Until then any old file of that name stays, even if the process is killed or the machine fails.

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
        # torch.save raises its own error while handling the file's OSError
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, path) from None
        raise


def remove_unfinished(output_dir: str | os.PathLike[str]) -> None:
    """Remove the unfinished files of an :func:`atomic_write` whose process was killed."""
    for path in list(Path(output_dir).rglob(f"*{UNFINISHED}")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
