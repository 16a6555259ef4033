"""Checkpoints of a plain network into its attention-augmented twin."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..layers.aa_conv import AAConv2d
from .resnet import norm_beside

_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass
class LoadReport:
    """Where the tensors of a model came from; names are the model's."""

    loaded: list[str] = field(default_factory=list)
    sliced: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """One line a group, for a log."""
        total = len(self.loaded) + len(self.sliced) + len(self.fresh)
        yield (
            f"weights: {len(self.loaded)} of {total} tensors loaded, {len(self.sliced)} loaded in "
            f"part, {len(self.fresh)} fresh; {len(self.unused)} of the checkpoint unused"
        )
        for group in ("sliced", "fresh", "unused"):
            names = getattr(self, group)
            if names:
                yield f"weights {group}: {', '.join(names)}"


def slice_plain_convs(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Cut plain convolutions in `weights`, in place, to what the model's AAConv2d keep of them.

    Of a plain convolution an :class:`AAConv2d` keeps the first ``out_channels - value_depth``
    filters, and the norm that follows it keeps their statistics; the rest of the norm is the
    model's own. Names are the model's, or end a model's name (``res3.0.conv2.weight`` for
    ``backbone.bottom_up.res3.0.conv2.weight``); one that ends several belongs to the shortest.

    Returns:
        Names in `weights` that were cut.
    """
    own = model.state_dict()
    keys = _keys_by_model_name(own, weights)
    cut: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, AAConv2d) or module.weight is None:
            continue
        kept = len(module.weight)
        key = keys.get(f"{name}.weight")
        plain_shape = (module.out_channels, *module.weight.shape[1:])
        if key is None or weights[key].shape != plain_shape or kept == module.out_channels:
            continue
        cut.append(key)
        weights[key] = weights[key][:kept]
        bias = keys.get(f"{name}.bias")
        if bias is not None:
            weights[bias] = weights[bias][:kept]
            cut.append(bias)
        parent, _, conv_name = name.rpartition(".")
        norms = [f"{name}.norm"]
        if norm_beside(conv_name) != conv_name:
            norms.append(f"{parent}.{norm_beside(conv_name)}")
        for norm in norms:
            for tensor in _NORM_TENSORS:
                key = keys.get(f"{norm}.{tensor}")
                if key is not None:
                    filled = own[f"{norm}.{tensor}"].clone()
                    filled[:kept] = weights[key][:kept]
                    weights[key] = filled
                    cut.append(key)
    return cut


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> LoadReport:
    """Load what fits into `model`, plain convolutions into augmented ones included.

    Tensors of another shape than the model's are left out: the model's own stays fresh and the
    checkpoint's is listed unused.

    Args:
        weights: by the model's names; changed in place.
    """
    report = LoadReport(sliced=slice_plain_convs(model, weights))
    own = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    # a dict has lost the versions of the layers, without which some refuse to load
    state = OrderedDict(fitting)
    state._metadata = own._metadata
    model.load_state_dict(state, strict=False)
    report.loaded = [k for k in fitting if k not in report.sliced]
    report.fresh = [k for k in own if k not in fitting]
    report.unused = [k for k in weights if k not in fitting]
    return report


def _keys_by_model_name(own: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, str]:
    """For names of the model, the longest ending, cut at dots, that `weights` has.

    torchvision's ``conv1.weight`` ends ``layer1.0.conv1.weight`` too: the shortest name takes it.
    """
    keys: dict[str, str] = {}
    taken = set()
    for name in sorted(own, key=lambda name: name.count(".")):
        parts = name.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        key = next((ending for ending in endings if ending in weights), None)
        if key is not None and key not in taken:
            keys[name] = key
            taken.add(key)
    return keys
