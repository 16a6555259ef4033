"""One-line errors about a config."""

import difflib
from collections.abc import Sequence

from ..one_line import on_one_line


class ConfigError(ValueError):
    """A config file, key or value that cannot be used; one line says what, where and why."""

    def __init__(self, message: str) -> None:
        super().__init__(on_one_line(message))  # a file's name or a key may hold line ends


class UnknownKeyError(ConfigError):
    """A key that the config does not have."""

    def __init__(self, source: str, key: str, known: Sequence[str]) -> None:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"; the nearest known key is {nearest[0]}" if nearest else ""
        super().__init__(f"{source}: unknown config key {key}{hint}")
        self.source = source
        self.key = key
