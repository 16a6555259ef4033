"""Check every value of a config against the table, before anything is built from it."""

from fvcore.common.config import CfgNode

from .constraints import require
from .relations import RELATIONS
from .table import constraints


def check_values(cfg: CfgNode) -> None:
    """Refuse values that would break a run, train nonsense or exceed all memory.

    Raises:
        ConfigError: names the key.
    """
    for name, allowed in constraints().items():
        require(cfg, name, allowed)
    for check in RELATIONS:
        check(cfg)
