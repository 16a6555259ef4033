"""The configuration reference, from the code that has the defaults.

``python -m aa_detection.engines.reference > docs/configuration.md``
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..config.attention_keys import ATTENTION_KEYS
from ..config.augmentation_keys import AUGMENTATION_KEYS
from ..config.dataset_keys import DATASET_KEYS
from ..config.detectron2_keys import (
    NOT_OF_A_RETINANET,
    Detectron2Key,
    detectron2_only,
    honoured,
)
from ..config.keys import Key
from ..config.trainer_keys import TRAINER_KEYS

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
`MODEL.RESNETS.OUT_FEATURES` and `MODEL.FPN.IN_FEATURES`. Where values are listed, others are
refused.

{read}

(1) Of both engines.

## Refused by the embedded engine

These may stand in a file at detectron2's default, as they do in the `config.yaml` of its runs. With
another value they are refused by name:

{refused}

The groups below `MODEL` that no RetinaNet reads may hold anything in a file, and are refused on the
command line: {unread}.
"""


def reference() -> str:
    """The page, in Markdown."""
    own = [*ATTENTION_KEYS.values(), *AUGMENTATION_KEYS, *DATASET_KEYS, *TRAINER_KEYS]
    return _TEXT.format(
        command=COMMAND,
        own="\n".join(_own_rows(own)),
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
        kind = type(key.default).__name__
        yield (f"| `{key.name}` | {kind} | {_code(key.default)} | {key.values} | {key.meaning} |")


def _read_rows(keys: Mapping[str, Detectron2Key]) -> Iterator[str]:
    yield "| key | default | values |"
    yield "|---|---|---|"
    for name, key in keys.items():
        values = ""
        if key.embedded is not None:
            values = ", ".join(map(_code, key.embedded))
        elif key.check is not None:
            values = key.check[0].removeprefix("be ").replace("<", r"\<") + " (1)"
        yield f"| `{name}` | {_code(key.default)} | {values} |"


def _code(value: Any) -> str:
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def main(argv: list[str] | None = None) -> int:
    """Print the page; there are no arguments."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    print(reference(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
