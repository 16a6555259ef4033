"""Put a file in place only after it has been checked."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config import ConfigError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which replaces `file` unless the block raises an error.

    Raises:
        ConfigError: `file` cannot be written.
    """
    try:
        # in the same folder, so that a rename puts the file in place
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            unchecked = Path(folder) / file.name
            yield unchecked
            os.replace(unchecked, file)
    except OSError as error:
        raise ConfigError(
            f"--output {file}: cannot be written: {error.strerror or error}"
        ) from None
