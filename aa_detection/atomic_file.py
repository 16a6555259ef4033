"""Files that a crash leaves whole, or does not leave."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

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
