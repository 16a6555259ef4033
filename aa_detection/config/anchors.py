"""``MODEL.ANCHOR_GENERATOR``: the anchors of each pyramid level."""

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from .constraints import refusal


def by_level(lists: Sequence[Any], levels: int) -> Sequence[Sequence[float]]:
    """Return ``SIZES`` or ``ASPECT_RATIOS``, in any allowed form, as one list per level."""
    if not isinstance(lists[0], (list, tuple)):
        lists = [lists]
    return [lists[0]] * levels if len(lists) == 1 else lists


def anchors_of_a_pixel(cfg: CfgNode) -> int:
    """Return the number of anchors per pixel of the first level."""
    generator = cfg.MODEL.ANCHOR_GENERATOR
    return len(by_level(generator.SIZES, 1)[0]) * len(by_level(generator.ASPECT_RATIOS, 1)[0])


def check_anchors(cfg: CfgNode) -> None:
    """Refuse lists that do not match the levels or each other.

    Raises:
        ConfigError: names the key.
    """
    generator, levels = cfg.MODEL.ANCHOR_GENERATOR, _levels(cfg)
    if levels is None:
        return
    counts = []
    for key in ("SIZES", "ASPECT_RATIOS"):
        lists = by_level(generator[key], levels)
        if len(lists) != levels:
            raise refusal(
                f"MODEL.ANCHOR_GENERATOR.{key}",
                generator[key],
                f"one list, or one for each of {levels} levels",
            )
        counts.append([len(each) for each in lists])
    if len({sizes * ratios for sizes, ratios in zip(*counts)}) > 1:
        key = "SIZES" if len(set(counts[0])) > 1 else "ASPECT_RATIOS"
        raise refusal(
            f"MODEL.ANCHOR_GENERATOR.{key}",
            generator[key],
            "as many anchors on every level, which are SIZES times ASPECT_RATIOS",
        )


def _levels(cfg: CfgNode) -> int | None:
    """Return the number of levels of detectron2's own dense heads; None for custom detectors."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE == "RetinaNet":
        return len(model.RETINANET.IN_FEATURES)
    if "PROPOSAL_GENERATOR" in model and model.PROPOSAL_GENERATOR.NAME == "RPN":
        return len(model.RPN.IN_FEATURES)
    return None
