"""How far a comparison is, now and then: it takes seconds or an hour."""

import logging
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
_SECONDS = 10.0
_log = logging.getLogger(__name__)


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """The `items`, with a line in the log every ten seconds.

    Args:
        what: is done, such as "A, run 1 of 2: classes matched".
    """
    last = monotonic()
    for done, item in enumerate(items):
        if monotonic() - last >= _SECONDS:
            last = monotonic()
            _log.info("%s: %d of %d", what, done, len(items))
        yield item
