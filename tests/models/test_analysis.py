"""Counts against hand-made ones."""

import pytest
import torch
from torch import nn

from aa_detection.layers import AAConv2d, aa_conv
from aa_detection.models.analysis import analyze


def network(merge="concat"):
    options = {"num_heads": 2, "key_ratio": 0.5, "value_ratio": 0.25, "max_size": 9}
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        AAConv2d(8, 16, 3, 2, 1, bias=False, merge=merge, **options),
    )


@pytest.mark.parametrize(("merge", "filters", "maps"), [("concat", 12, 4), ("add", 16, 16)])
def test_flops_activations_and_parameters_are_the_formulas(merge, filters, maps):
    analysis = analyze(network(merge), torch.ones(2, 3, 10, 14))
    height, width, heads, key_depth, value_depth = 5, 7, 2, 8, 4
    tokens = height * width
    plain = 10 * 14 * 8 * 3 * 9 + tokens * filters * 8 * 9
    qkv = 2 * key_depth + value_depth
    projections = tokens * (8 * qkv + value_depth * maps)
    pooled = tokens * 8  # fvcore counts an average a number
    attention = tokens * tokens * (key_depth + value_depth) + tokens * (height + width) * key_depth
    flops = 2 * (plain + projections + attention)
    assert analysis.flops in (flops, flops + 2 * pooled)
    assert analysis.activations == 2 * (10 * 14 * 8 + tokens * (filters + maps + qkv))
    tables = 2 * 17 * key_depth // heads
    assert (
        analysis.parameters == 3 * 8 * 9 + filters * 8 * 9 + 8 * qkv + value_depth * maps + tables
    )

    (cost,) = analysis.attention
    assert (cost.layer, cost.heads, cost.height, cost.width) == ("1", 2, 5, 7)
    assert cost.logits_bytes == 4 * 2 * heads * tokens**2
    assert cost.linear_bytes == 4 * 2 * tokens * 2 * (key_depth + value_depth)


@pytest.mark.parametrize("broken", [False, True])
def test_the_network_and_the_operator_come_back_as_they_were(broken):
    model, operator = network().train(), aa_conv.relative_attention_2d
    if broken:
        with pytest.raises(RuntimeError):
            analyze(model, torch.ones(1, 4, 10, 14))
    else:
        analyze(model, torch.ones(1, 3, 10, 14))
    assert aa_conv.relative_attention_2d is operator
    assert model.training
    if not broken:  # fvcore leaves its own behind when the network raises
        assert not any(module._forward_pre_hooks for module in model.modules())
