"""Every value of a config against the table, before anything is made of it."""

from fvcore.common.config import CfgNode

from .constraints import require
from .relations import RELATIONS
from .table import constraints


def check_values(cfg: CfgNode) -> None:
    """Refuse values that a run would trip over, train nonsense with, or find no memory for.

    Raises:
        ConfigError: names the key.
    """
    for name, allowed in constraints().items():
        require(cfg, name, allowed)
    for check in RELATIONS:
        check(cfg)
