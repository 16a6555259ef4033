"""Generate the configuration reference from the code that defines the defaults.

``python -m aa_detection.engines.reference > docs/configuration.md``
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..config.constraints import Constraint
from ..config.detectron2_keys import (
    NOT_OF_A_RETINANET,
    Detectron2Key,
    detectron2_only,
    honoured,
)
from ..config.keys import Key
from ..config.table import OWN_KEYS

COMMAND = "python -m aa_detection.engines.reference > docs/configuration.md"

_TEXT = """\
<!-- Written by `{command}`: change the code, not this file. -->

# Configuration

One YAML file for both engines. A file may name others that it builds on under `_BASE_`, and the end
of every command line overrides: `KEY VALUE KEY VALUE …`. An unknown key, a value of another type or
one out of range stops the command with one line that names the file and the key. A whole number is
taken where a fraction is expected, and `MODEL.DEVICE` cuda becomes cpu where there is no CUDA
device.

## This project's keys

`add_aa_config(cfg)` adds them to detectron2's; the command lines do so by themselves. With `CONV`
and `GATE` empty the network is detectron2's own.

{own}

## detectron2's keys on the embedded engine

detectron2 reads all its keys, and
[its reference](https://detectron2.readthedocs.io/en/latest/modules/config.html#yaml-config-references)
says what they mean. The embedded engine has these of them, with detectron2's defaults but for
what a RetinaNet needs: `MODEL.META_ARCHITECTURE`, `MODEL.BACKBONE.NAME`,
`MODEL.RESNETS.OUT_FEATURES` and `MODEL.FPN.IN_FEATURES`. The values are those that the
embedded engine takes; where they are given in words, detectron2 takes the same.

{read}

## Refused by the embedded engine

These may stand in a file at detectron2's default, as they do in the `config.yaml` of its runs. With
another value they are refused by name:

{refused}

The groups below `MODEL` that no RetinaNet reads may hold anything in a file, and are refused on the
command line: {unread}.
"""


def reference() -> str:
    """Return the page in Markdown."""
    return _TEXT.format(
        command=COMMAND,
        own="\n".join(_own_rows(OWN_KEYS)),
        read="\n".join(_read_rows(honoured())),
        refused="\n".join(
            f"- `{name}` {_code(key.default)}" for name, key in detectron2_only().items()
        ),
        unread=", ".join(f"`{name}`" for name in NOT_OF_A_RETINANET),
    )


def _own_rows(keys: Iterable[Key]) -> Iterator[str]:
    yield "| key | type | default | values | |"
    yield "|---|---|---|---|---|"
    for key in keys:
        kind, allowed = type(key.default).__name__, _words(key.allowed)
        yield f"| `{key.name}` | {kind} | {_code(key.default)} | {allowed} | {key.meaning} |"


def _read_rows(keys: Mapping[str, Detectron2Key]) -> Iterator[str]:
    yield "| key | default | values |"
    yield "|---|---|---|"
    for name, key in keys.items():
        values = ""
        if key.embedded is not None:
            values = ", ".join(map(_code, key.embedded))
        elif key.allowed is not None:
            values = _words(key.allowed)
        yield f"| `{name}` | {_code(key.default)} | {values} |"


def _words(allowed: Constraint) -> str:
    return allowed.expected.replace("<", r"\<")


def _code(value: Any) -> str:
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def main(argv: list[str] | None = None) -> int:
    """Print the page; takes no arguments."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    print(reference(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
