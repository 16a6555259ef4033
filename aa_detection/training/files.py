"""The output folder of a run."""

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
# keys that affect where a run executes and what it writes, not what it learns
ELSEWHERE = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "LOGGERS",
)
_MISSING = object()


def check_output_dir(output_dir: str | os.PathLike[str]) -> None:
    """Create the folder and write a test file, before hours of training depend on it.

    Raises:
        ConfigError: it cannot be created or written to.
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
    """Create the folder and lock it against other processes' runs inside ``with``.

    The system releases the lock when the process ends, however it dies. The lock uses ``lockf``
    rather than ``flock``: data workers would inherit a ``flock`` and hold it until they notice that
    their parent is gone.

    Raises:
        ConfigError: another run holds the folder (names its process), or see
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
        except OSError as error:  # the file system has no locks
            _log.warning("%s cannot be locked (%s): run once at a time", file.name, error.strerror)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def check_unfinished(cfg: CfgNode) -> None:
    """Refuse to train over a finished run of another configuration.

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
    """Return the settings that affect what a run learns, by dotted keys."""
    if not isinstance(content, dict):
        return {} if prefix in ELSEWHERE else {prefix: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _settings(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def cut_metrics(path: str | os.PathLike[str], iteration: int) -> None:
    """Remove the lines of ``metrics.json`` that were written at `iteration` and after.

    A resumed run continues from its checkpoint and writes these lines again. A line truncated by a
    kill is removed too. The file is cut in place, so processes that have it open for appending keep
    it.
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
