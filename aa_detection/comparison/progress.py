"""Progress of a comparison, which takes from seconds to an hour."""

import logging
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
_SECONDS = 10.0
_log = logging.getLogger(__name__)


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the `items`, logging a line every ten seconds.

    Args:
        what: the description of what is done, such as "A, run 1 of 2: classes matched".
    """
    last = monotonic()
    for done, item in enumerate(items):
        if monotonic() - last >= _SECONDS:
            last = monotonic()
            _log.info("%s: %d of %d", what, done, len(items))
        yield item
