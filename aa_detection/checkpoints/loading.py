"""Load a checkpoint into a model of either engine."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..config import ConfigError
from ..layers.aa_conv import MERGES
from ..models.transfer import BOOKKEEPING, LoadReport, fit_weights, load_fitting
from .names import detectron2_name
from .reading import Checkpoint

# parts of a model that belong to a ResNet
_IN_RESNET = re.compile(r"(?:^|\.)(?:stem|res[2-5])\.")
_BLOCK = re.compile(r"(?:^|\.)res2\.0\.")
# torchvision's detectors have one class for each of COCO's category ids, and 0 for none. These are
# unused; the others are detectron2's 80 classes, in the same order.
_COCO_IDS = 91
_COCO_UNUSED = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def load_checkpoint(
    model: nn.Module, checkpoint: Checkpoint, *, allow_partial: bool = False
) -> LoadReport:
    """Load the tensors that :func:`fit_checkpoint` selects, in place.

    Returns:
        The report, by detectron2's names.

    Raises:
        ConfigError: see :func:`fit_checkpoint`; the model is then unchanged.
    """
    fitting, report = fit_checkpoint(model, checkpoint, allow_partial=allow_partial)
    load_fitting(model, fitting)
    return report


def fit_checkpoint(
    model: nn.Module, checkpoint: Checkpoint, *, allow_partial: bool = False
) -> tuple[dict[str, Tensor], LoadReport]:
    """Select the tensors that fit; see :func:`aa_detection.models.transfer.fit_weights`.

    The weights of a ResNet go to the model's ResNet, wherever that is.

    Args:
        model: a detector or ResNet of detectron2 or torchvision.
        allow_partial: accept less than half of the backbone's parameters.

    Returns:
        Tensors to load by the model's names, and the report by detectron2's.

    Raises:
        ConfigError: no tensor fits; a tensor has NaN or infinity, or integers where weights are
            expected; or, without `allow_partial`, less than half of the backbone's parameters fit,
            the blocks are of the other kind (half of them would still fit), or attention is merged
            in the other way.
    """
    own = model.state_dict()
    names = {detectron2_name(name): name for name in own}
    places = {}  # the model's name of each tensor of its ResNet
    for name, model_name in names.items():
        found = _IN_RESNET.search(name)
        if found:
            places[name[found.start() :].lstrip(".")] = model_name
    weights = {}
    for name, tensor in checkpoint.weights.items():
        weights[names.get(name) or places.get(name) or name] = tensor
    chosen = _choose_coco_classes(checkpoint, own, weights)

    fitting, report = fit_weights(model, weights)
    report.loaded = [name for name in report.loaded if name not in chosen]
    report.sliced += [name for name in chosen if name in fitting]
    report.backbone_share = _backbone_share(own, fitting)
    _name_as_detectron2(report)
    _check(checkpoint, own, fitting, report, allow_partial)
    return fitting, report


def _name_as_detectron2(report: LoadReport) -> None:
    """Use detectron2's names, so that the report is the same on both engines."""
    for names in (report.loaded, report.sliced, report.reindexed, report.fresh, report.unused):
        names[:] = sorted(map(detectron2_name, names))
    report.misfits = {
        detectron2_name(name): shapes for name, shapes in sorted(report.misfits.items())
    }


def _choose_coco_classes(
    checkpoint: Checkpoint, own: dict[str, Tensor], weights: dict[str, Tensor]
) -> list[str]:
    """Reduce torchvision's 91 COCO classes to detectron2's 80, in place; return the names."""
    if checkpoint.layout != "torchvision":
        return []
    chosen = []
    for name in ("head.cls_score.weight", "head.cls_score.bias"):
        theirs, ours = weights.get(name), own.get(name)
        if theirs is None or ours is None or len(theirs) % _COCO_IDS:
            continue
        anchors = len(theirs) // _COCO_IDS
        if len(ours) == anchors * (_COCO_IDS - len(_COCO_UNUSED)):
            used = [i for i in range(_COCO_IDS) if i not in _COCO_UNUSED]
            weights[name] = theirs.unflatten(0, (anchors, _COCO_IDS))[:, used].flatten(0, 1)
            chosen.append(name)
    return chosen


def _backbone_share(own: dict[str, Tensor], fitting: dict[str, Tensor]) -> float | None:
    sizes = {
        name: tensor.numel()
        for name, tensor in own.items()
        if _IN_RESNET.search(detectron2_name(name)) and not name.endswith(BOOKKEEPING)
    }
    if not sizes:
        return None
    return sum(size for name, size in sizes.items() if name in fitting) / sum(sizes.values())


def _block_kind(names: Iterable[str]) -> str | None:
    """Return the kind of the ResNet's blocks, or None without a ResNet."""
    blocks = [name for name in map(detectron2_name, names) if _BLOCK.search(name)]
    if not blocks:
        return None
    if any(".conv3." in name for name in blocks):
        return "bottlenecks (ResNet-50 and deeper)"
    return "basic blocks (ResNet-18, 34)"


def _check(
    checkpoint: Checkpoint,
    own: dict[str, Tensor],
    fitting: dict[str, Tensor],
    report: LoadReport,
    allow_partial: bool,
) -> None:
    path = checkpoint.path
    for name, tensor in fitting.items():
        if tensor.is_floating_point() != own[name].is_floating_point():
            expected = f"expected {own[name].dtype} for {detectron2_name(name)}"
            raise ConfigError(f"{path}: {expected}, got {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ConfigError(
                f"{path}: {detectron2_name(name)} holds NaN or infinity; its run diverged"
            )
    share = report.backbone_share
    kind, own_kind = map(_block_kind, (checkpoint.weights, own))
    if kind and own_kind and kind != own_kind and not allow_partial:
        raise ConfigError(
            f"{path}: a ResNet of {kind}, and MODEL.RESNETS.DEPTH makes one of {own_kind}"
        )
    if report.other_merge and not allow_partial:
        merge = report.other_merge
        (own_merge,) = set(MERGES) - {merge}
        raise ConfigError(
            f'{path}: its attention is merged by "{merge}", the model\'s by "{own_merge}": set '
            f"MODEL.ATTENTION.AA.MERGE {merge}; --allow-partial-weights loads the rest"
        )
    if fitting and (allow_partial or share is None or share >= 0.5):
        return
    sizes = {detectron2_name(name): tensor.numel() for name, tensor in own.items()}
    largest = max(report.fresh, key=sizes.__getitem__)
    because = f"; it lacks {largest}"
    if largest in report.misfits:
        theirs, ours = map(tuple, report.misfits[largest])
        because = f"; {largest} is {theirs}, the model's {ours}"
    if not fitting:
        raise ConfigError(f"{path}: no tensor of it fits the model{because}")
    raise ConfigError(
        f"{path}: only {share:.1%} of the backbone's parameters load{because}; "
        "--allow-partial-weights takes them"
    )
