"""Locations of checkpoints: local files, https:// and detectron2:// addresses."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from iopath.common.file_io import HTTPURLHandler, PathHandler, PathManager

from ..config import ConfigError

# base URL of detectron2's own handler
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"


class _Detectron2Handler(PathHandler):
    """Handler of detectron2's model zoo, for machines without detectron2."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["detectron2://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return PATHS.get_local_path(_DETECTRON2 + path.removeprefix("detectron2://"), force)


PATHS = PathManager()
PATHS.register_handler(HTTPURLHandler())
PATHS.register_handler(_Detectron2Handler())


@contextlib.contextmanager
def _quiet_failures() -> Iterator[None]:
    """Silence iopath's messages about failed downloads, and its bar except on a terminal."""
    log = logging.getLogger("iopath.common.download")
    level = log.level
    log.setLevel(logging.CRITICAL)
    bar = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(None)
    try:
        with bar:
            yield
    finally:
        log.setLevel(level)


def local_file(path: str, paths: PathManager = PATHS) -> str:
    """Return the local file of an address, downloading a remote one to iopath's cache.

    Args:
        paths: detectron2's engine passes its own, to which projects add handlers.

    Raises:
        ConfigError: the file cannot be fetched, or is not a regular file.
    """
    try:
        with _quiet_failures():
            local = paths.get_local_path(path)
    except Exception as error:  # a dozen kinds of network error, unknown catalog entries
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"{path}: cannot be fetched: {problem}") from None
    if os.path.isdir(local):
        raise ConfigError(f"{path}: expected a file of weights, got a folder")
    if not os.path.isfile(local):
        raise ConfigError(f"{path}: no such file")
    return local
