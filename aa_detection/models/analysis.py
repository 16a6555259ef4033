"""Counts of one forward pass: parameters, FLOPs, activations and attention's memory."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts a function on import
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

from ..attention import BACKENDS
from ..layers import AAConv2d


@dataclass
class AttentionCost:
    """Memory of one attention layer on one batch, in float32.

    Attributes:
        logits_bytes: logits held by a backend that materialises them, ``B h (HW)²`` numbers.
        linear_bytes: queries, keys, values and output, which every backend holds.
    """

    layer: str
    heads: int
    height: int
    width: int
    logits_bytes: int
    linear_bytes: int


@dataclass
class Analysis:
    """Counts of a network and of one forward pass through it.

    Attributes:
        parameters: all, including frozen ones; buffers do not count.
        flops: one FLOP per multiply-add of convolutions and matrix products, and one per element
            of a norm and of pooling, as fvcore counts. Attention counts by formula, whatever the
            backend: ``h (HW) [HW (d_k + d_v) + (H + W) d_k]`` multiply-adds for content logits,
            weighted values, and each query with each relative distance.
        activations: number of outputs of convolutions and matrix products.
        attention: in the order in which the layers are called.
    """

    parameters: int
    flops: int
    activations: int
    attention: list[AttentionCost] = field(default_factory=list)


_COUNTER = "counter"  # a backend that exists only during a count


class DensePart(nn.Module):
    """A detector of either engine, from the normalised batch to the outputs of its dense head."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone: nn.Module = detector.backbone
        proposals = getattr(detector, "proposal_generator", None)
        self.head: nn.Module = detector.head if proposals is None else proposals.rpn_head
        owner = detector if proposals is None else proposals
        self.levels = getattr(owner, "head_in_features", getattr(owner, "in_features", None))

    def forward(self, images: Tensor) -> Any:
        features = self.backbone(images)
        return self.head([features[level] for level in self.levels or features])


def analyze(model: nn.Module, *inputs: Tensor) -> Analysis:
    """Count on the CPU in evaluation mode; attention is counted but not computed.

    Args:
        model: its forward takes `inputs` and returns tensors, or lists or dicts of them.
    """
    costs: list[AttentionCost] = []
    running: list[str] = []
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, AAConv2d)]
    hooks = [
        module.register_forward_pre_hook(lambda m, args, name=name: running.append(name))
        for name, module in layers
    ]

    def count(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rel_h: Tensor | None,
        rel_w: Tensor | None,
        scale: float,
        valid_size: Tensor | None,
    ) -> Tensor:
        batch, heads, height, width, key_depth = (int(n) for n in q.shape)
        tokens, value_depth = height * width, int(v.shape[-1])
        costs.append(
            AttentionCost(
                running[-1],
                heads,
                height,
                width,
                4 * batch * heads * tokens**2,
                4 * batch * heads * tokens * 2 * (key_depth + value_depth),
            )
        )
        return _Attention.apply(q, k, v, rel_h is not None)

    training, backends = model.training, [module.backend for _, module in layers]
    model.eval()
    BACKENDS[_COUNTER] = count
    for _, module in layers:
        module.backend = _COUNTER
    try:
        with torch.no_grad():
            flops = FlopCountAnalysis(model, inputs)
            flops.set_op_handle(f"prim::PythonOp.{_Attention.__name__}", _attention_flops)
            activations = ActivationCountAnalysis(model, inputs)
            for analysis in (flops, activations):
                analysis.unsupported_ops_warnings(False)
                analysis.uncalled_modules_warnings(False)
                analysis.tracer_warnings("none")
            total_flops = int(flops.total())
            attention, costs = costs, []  # the second count calls every layer again
            total_activations = int(activations.total())
    finally:
        for (_, module), backend in zip(layers, backends):
            module.backend = backend
        del BACKENDS[_COUNTER]
        model.train(training)
        for hook in hooks:
            hook.remove()
    parameters = sum(p.numel() for p in model.parameters())
    return Analysis(parameters, total_flops, total_activations, attention)


class _Attention(torch.autograd.Function):
    """Stand-in for the operator: one node of the graph that fvcore counts."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, relative: bool) -> Tensor:
        return torch.zeros_like(v)


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    batch, heads, height, width, key_depth = get_shape(inputs[0])
    value_depth = get_shape(inputs[2])[-1]
    tokens = height * width
    return (
        batch * heads * tokens * (tokens * (key_depth + value_depth) + (height + width) * key_depth)
    )
