"""Keys that this project adds to detectron2's config: name, default, constraint and meaning."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from .constraints import Constraint


@dataclass(frozen=True)
class Key:
    """One key; :mod:`aa_detection.engines.reference` prints it.

    Attributes:
        name: dotted, from the config's root.
        allowed: the allowed values, on either engine.
        meaning: one line.
    """

    name: str
    default: Any
    allowed: Constraint
    meaning: str


def add_keys(cfg: CfgNode, keys: Iterable[Key]) -> None:
    """Add the missing keys to `cfg` with their defaults; a frozen config stays frozen."""
    frozen = cfg.is_frozen()
    cfg.defrost()
    for key in keys:
        *groups, name = key.name.split(".")
        node = cfg
        for group in groups:
            if group not in node:
                node[group] = type(cfg)()  # detectron2 has its own type
            node = node[group]
        if name not in node:
            node[name] = copy.deepcopy(key.default)
    if frozen:
        cfg.freeze()
