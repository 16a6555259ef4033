"""Entry points of ``torch.hub``: the papers' classifiers, with random weights.

``torch.hub.load(".", "aa_resnet50", source="local", num_classes=10)`` in a checkout, and
``torch.hub.load("OWNER/REPOSITORY", "aa_resnet50")`` from GitHub. The arguments are those of the
function of the same name in ``aa_detection.models.classification``.
"""

import functools as _functools
from collections.abc import Callable as _Callable
from typing import Any as _Any

from torch import nn as _nn

from aa_detection.models import classification as _classification

dependencies = ["torch", "torchvision"]  # the detectors' are pip's business


def _entry(build: _Callable[..., _nn.Module]) -> _Callable[..., _nn.Module]:
    @_functools.wraps(build)
    def load(*args: _Any, pretrained: bool = False, **kwargs: _Any) -> _nn.Module:
        if pretrained:
            raise ValueError(
                f"{build.__name__}: there are no pretrained weights; expected pretrained=False"
            )
        return build(*args, **kwargs)

    return load


aa_resnet18 = _entry(_classification.aa_resnet18)
aa_resnet34 = _entry(_classification.aa_resnet34)
aa_resnet50 = _entry(_classification.aa_resnet50)
aa_resnet101 = _entry(_classification.aa_resnet101)
aa_resnet152 = _entry(_classification.aa_resnet152)
aa_wide_resnet28_10 = _entry(_classification.aa_wide_resnet28_10)
aa_mnasnet = _entry(_classification.aa_mnasnet)
se_resnet50 = _entry(_classification.se_resnet50)
aw_resnet50 = _entry(_classification.aw_resnet50)
aw_resnet101 = _entry(_classification.aw_resnet101)
