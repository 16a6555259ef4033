"""The folder of a run."""

import contextlib
import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from ..config import ConfigError, parse_yaml

_log = logging.getLogger(__name__)
_LOCK = ".lock"
# where a run is made and what it writes, not what it learns
ELSEWHERE = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "LOGGERS",
)
_MISSING = object()


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


@contextlib.contextmanager
def alone_in(output_dir: str | os.PathLike[str]) -> Iterator[None]:
    """Make the folder, and keep the runs of other processes out of it inside ``with``.

    The system ends the lock with the process, however that dies. It is a lock of ``lockf`` and not
    of ``flock``, because data workers would inherit the latter and hold it until they have noticed
    that they are alone.

    Raises:
        ConfigError: another run has the folder (names its process), or see
            :func:`check_output_dir`.
    """
    check_output_dir(output_dir)
    with open(os.path.join(output_dir, _LOCK), "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip()
            raise ConfigError(
                f"OUTPUT_DIR {os.fspath(output_dir)}: process {holder or 'of another run'} trains "
                "or evaluates there; wait for it, or name another OUTPUT_DIR"
            ) from None
        except OSError as error:  # of a file system without locks
            _log.warning("%s cannot be locked (%s): run once at a time", file.name, error.strerror)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def check_unfinished(cfg: CfgNode) -> None:
    """Refuse to train where a finished run of another configuration would be lost.

    Raises:
        ConfigError: names the first key that differs.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if not (folder / "model_final.pth").is_file():
        return
    wanted = _settings(parse_yaml(cfg.dump(), "the config"))
    path = folder / "config.yaml"
    try:
        with path.open(encoding="utf-8") as file:
            found = _settings(parse_yaml(file, str(path)))
    except (OSError, ConfigError):
        found = {}
    for key in sorted({*wanted, *found}):
        values = [each.get(key, _MISSING) for each in (found, wanted)]
        if values[0] != values[1]:
            had, has = ("nothing" if v is _MISSING else f"{v!r:.60}" for v in values)
            raise ConfigError(
                f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds a finished run of another configuration "
                f"({key}: {had} there, {has} here); name another OUTPUT_DIR, remove that one, or "
                "go on from it with --resume"
            )


def _settings(content: Any, prefix: str = "") -> dict[str, Any]:
    """What decides what a run learns, by dotted keys."""
    if not isinstance(content, dict):
        return {} if prefix in ELSEWHERE else {prefix: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _settings(value, f"{prefix}.{key}" if prefix else str(key))
    return found


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
