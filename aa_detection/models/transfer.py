"""Load a plain network's weights into its attention-augmented twin, by the model's own names."""

import re
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.aa_conv import AAConv2d
from .resnet import is_frozen_norm, norm_beside

_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
# training counters: not weights, and not in every framework's model
BOOKKEEPING = ("num_batches_tracked", "loss_normalizer")


@dataclass
class LoadReport:
    """Where a model's tensors came from; names are the model's.

    Attributes:
        sliced: tensors of which the model keeps a part (see :func:`fit_weights`).
        reindexed: distance tables resized to the model's.
        fresh: tensors of the model that the checkpoint lacks or has in another shape.
        unused: tensors of the checkpoint that the model lacks or has in another shape.
        misfits: the checkpoint's and the model's shape of each tensor whose shapes differ.
        backbone_share: share of the backbone's parameters that were loaded, 0 … 1; None if the
            network is not a detector.
        other_merge: the checkpoint's `merge` (see :class:`aa_detection.AAConv2d`) if it differs
            from the model's; nothing of such a layer and its norm is loaded. None: they agree.
    """

    loaded: list[str] = field(default_factory=list)
    sliced: list[str] = field(default_factory=list)
    reindexed: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    misfits: dict[str, tuple[torch.Size, torch.Size]] = field(default_factory=dict)
    backbone_share: float | None = None
    other_merge: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield one line per group, for a log."""
        total = sum(map(len, (self.loaded, self.sliced, self.reindexed, self.fresh)))
        share = self.backbone_share
        yield (
            f"weights: {len(self.loaded)} of {total} tensors loaded, {len(self.sliced)} sliced, "
            f"{len(self.reindexed)} re-indexed, {len(self.fresh)} fresh; "
            f"{len(self.unused)} of the checkpoint unused"
            + ("" if share is None else f"; {share:.1%} of the backbone's parameters loaded")
        )
        for group in ("sliced", "reindexed", "fresh", "unused"):
            names = getattr(self, group)
            if names:
                yield f"weights {group}: {_by_module(names)}"
        for name, (theirs, ours) in self.misfits.items():
            yield f"weights misfit: {name} is {tuple(theirs)}, the model's {tuple(ours)}"


def fit_weights(
    model: nn.Module, weights: dict[str, Tensor]
) -> tuple[dict[str, Tensor], LoadReport]:
    """Select the `weights` that fit into `model`, adapting plain convolutions and distance tables.

    An :class:`AAConv2d` that concatenates keeps the first ``out_channels - value_depth`` filters of
    a plain convolution, and the norm that follows it keeps their statistics. The rest of the norm
    is the model's own, except for a frozen norm's bias (see :func:`aa_detection.augment`). Distance
    tables of another size are re-indexed by distance: a larger table keeps its middle, and a
    smaller one repeats its ends, as the operator does for distances beyond its table.

    Args:
        weights: keyed by the model's names.

    Returns:
        Tensors to load, and the report.
    """
    own = model.state_dict()
    weights = dict(weights)
    report = LoadReport()
    left_out: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, AAConv2d):
            prefix = f"{name}." if name else ""
            merge = _merge_of(prefix, module, weights)
            if merge not in (None, module.merge):
                report.other_merge = merge
                parts = (prefix, *(f"{norm}." for norm in _norms_behind(prefix)))
                left_out.update(key for key in weights if key.startswith(parts))
                continue
            report.sliced += _slice_plain_conv(model, prefix, module, own, weights)
            report.reindexed += _reindex_tables(prefix, module, weights)
    fitting = {
        key: tensor
        for key, tensor in weights.items()
        if key in own and tensor.shape == own[key].shape and key not in left_out
    }
    changed = {*report.sliced, *report.reindexed}
    report.loaded = [name for name in fitting if name not in changed]
    report.fresh = [k for k in own if k not in fitting and not k.endswith(BOOKKEEPING)]
    report.unused = [k for k in weights if k not in fitting and not k.endswith(BOOKKEEPING)]
    report.misfits = {
        key: (weights[key].shape, own[key].shape)
        for key in report.unused
        if key in own and weights[key].shape != own[key].shape
    }
    return fitting, report


def load_fitting(model: nn.Module, fitting: dict[str, Tensor]) -> None:
    """Load the tensors that :func:`fit_weights` returned for this model."""
    # a dict has lost the layers' versions, without which some layers refuse to load
    state: Any = OrderedDict(fitting)
    own: Any = model.state_dict()
    state._metadata = own._metadata
    model.load_state_dict(state, strict=False)


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> LoadReport:
    """Load what fits into `model` (see :func:`fit_weights`) and leave the rest unchanged."""
    fitting, report = fit_weights(model, weights)
    load_fitting(model, fitting)
    return report


def _slice_plain_conv(
    model: nn.Module,
    prefix: str,
    module: AAConv2d,
    own: dict[str, Tensor],
    weights: dict[str, Tensor],
) -> list[str]:
    """Cut a plain convolution in `weights`, in place, and return the names that were cut."""
    weight = weights.get(f"{prefix}weight")
    if module.weight is None or weight is None:
        return []
    kept = len(module.weight)
    plain_shape = (module.out_channels, *module.weight.shape[1:])
    if weight.shape != plain_shape or kept == module.out_channels:
        return []
    cut = [key for key in (f"{prefix}weight", f"{prefix}bias") if key in weights]
    for key in cut:
        weights[key] = weights[key][:kept]
    modules = dict(model.named_modules())
    for norm in _norms_behind(prefix):
        for tensor in _NORM_TENSORS:
            key = f"{norm}.{tensor}"
            if key not in weights or key not in own or weights[key].shape != own[key].shape:
                continue
            if tensor == "bias" and is_frozen_norm(modules[norm]):
                continue  # keep the bias: it is the mean of the dropped filters
            filled = own[key].to(weights[key], copy=True)
            filled[:kept] = weights[key][:kept]
            weights[key] = filled
            cut.append(key)
    return cut


def _norms_behind(prefix: str) -> list[str]:
    """Return possible names of the norm behind a convolution: in it, or beside it (torchvision)."""
    *parents, conv_name, _ = f".{prefix}".split(".")
    norms = [f"{prefix}norm"]
    if norm_beside(conv_name) != conv_name:
        norms.append(".".join((*parents, norm_beside(conv_name))).lstrip("."))
    return norms


def _merge_of(prefix: str, module: AAConv2d, weights: dict[str, Tensor]) -> str | None:
    """Return how `weights` merge this layer's attention; None if they have none of its width."""
    proj, weight = (weights.get(f"{prefix}{name}") for name in ("proj.weight", "weight"))
    if proj is None or proj.ndim != 4:
        return None
    filters, maps = 0 if weight is None else len(weight), len(proj)
    if filters == maps == module.out_channels:
        return "add"
    return "concat" if filters + maps == module.out_channels else None


def _reindex_tables(prefix: str, module: AAConv2d, weights: dict[str, Tensor]) -> list[str]:
    """Resize distance tables in `weights`, in place, to the model's; return their names."""
    changed = []
    for table, size in (("rel_h", module.max_size[0]), ("rel_w", module.max_size[1])):
        key = f"{prefix}{table}"
        theirs, ours = weights.get(key), getattr(module, table)
        # (2 · size − 1, depth of a head): row r is distance r − (size − 1)
        if theirs is None or ours is None or theirs.ndim != 2 or len(theirs) % 2 == 0:
            continue
        if len(theirs) == len(ours) or theirs.shape[1] != ours.shape[1]:
            continue
        reach = len(theirs) // 2
        distances = torch.arange(-(size - 1), size).clamp(-reach, reach)
        weights[key] = theirs[distances + reach]
        changed.append(key)
    return changed


def _by_module(names: list[str]) -> str:
    """Summarise as ``res3.*.conv2 (20), head.cls_score (2)``, merging blocks and tower layers."""
    counts: Counter[str] = Counter()
    for name in names:
        module = name.rpartition(".")[0] or name
        counts[re.sub(r"\.\d+(?=\.|$)", ".*", module.removesuffix(".norm"))] += 1
    return ", ".join(f"{module} ({count})" for module, count in counts.items())
