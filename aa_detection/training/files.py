"""The folder of a run."""

import json
import os
import tempfile
from pathlib import Path

from ..config import ConfigError


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
