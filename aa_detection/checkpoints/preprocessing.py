"""Check the image preprocessing that pretrained weights expect against the config."""

from collections.abc import Iterator, Sequence

from fvcore.common.config import CfgNode
from torch import Tensor

from ..config import ConfigError
from .reading import Checkpoint

# ImageNet's mean in 0 … 255
_RGB_MEAN = [123.675, 116.28, 103.53]
_RGB_STD = [58.395, 57.12, 57.375]


def check_preprocessing(cfg: CfgNode, checkpoint: Checkpoint) -> None:
    """Refuse weights whose origin contradicts the config: they would load, but give wrong results.

    Raises:
        ConfigError: names every key to set, and its value.
    """
    expected = {
        "torchvision": ("torchvision's", _of_torchvision),
        "Detectron": ("Detectron's", _of_detectron),
    }.get(checkpoint.author)
    if expected is None:
        return
    whose, contradictions = expected
    wrong = [f"{key} {value}" for key, value in contradictions(cfg, checkpoint.weights)]
    if wrong:
        raise ConfigError(
            f"{checkpoint.path}: {whose} weights, and the config contradicts what they were "
            f"trained with: set {', '.join(wrong)}"
        )


def _of_torchvision(cfg: CfgNode, weights: dict[str, Tensor]) -> Iterator[tuple[str, object]]:
    if cfg.INPUT.FORMAT != "RGB":
        yield "INPUT.FORMAT", "RGB"
    if _close(cfg.MODEL.PIXEL_MEAN, _RGB_MEAN[::-1]):
        yield "MODEL.PIXEL_MEAN", _RGB_MEAN
    if max(cfg.MODEL.PIXEL_STD) < 2:
        yield "MODEL.PIXEL_STD", _RGB_STD
    if cfg.MODEL.RESNETS.STRIDE_IN_1X1 and _has_bottlenecks(weights):
        yield "MODEL.RESNETS.STRIDE_IN_1X1", False


def _of_detectron(cfg: CfgNode, weights: dict[str, Tensor]) -> Iterator[tuple[str, object]]:
    if cfg.INPUT.FORMAT != "BGR":
        yield "INPUT.FORMAT", "BGR"
    if _close(cfg.MODEL.PIXEL_MEAN, _RGB_MEAN):
        yield "MODEL.PIXEL_MEAN", _RGB_MEAN[::-1]
    if _has_batch_norm(weights) and cfg.MODEL.RESNETS.NORM in ("BN", "SyncBN"):
        yield "MODEL.RESNETS.NORM", "FrozenBN"  # the statistics are folded into scale and bias
    if not _has_groups(weights) and max(cfg.MODEL.PIXEL_STD) > 2:
        yield "MODEL.PIXEL_STD", [1.0, 1.0, 1.0]
    stride_in_1x1 = strides_in_1x1(weights)
    if cfg.MODEL.RESNETS.STRIDE_IN_1X1 != stride_in_1x1 and _has_bottlenecks(weights):
        yield "MODEL.RESNETS.STRIDE_IN_1X1", stride_in_1x1


def strides_in_1x1(weights: dict[str, Tensor]) -> bool:
    """Return whether Detectron's ResNet has its stride in the 1×1 convolution of a bottleneck.

    MSRA's ResNets do. Facebook's, which have group norm or groups, do not, like torchvision's.
    """
    return _has_bottlenecks(weights) and _has_batch_norm(weights) and not _has_groups(weights)


def _has_batch_norm(weights: dict[str, Tensor]) -> bool:
    return any(name.endswith("norm.running_var") for name in weights)


def _has_groups(weights: dict[str, Tensor]) -> bool:
    spatial = [w for name, w in weights.items() if name.endswith("res2.0.conv2.weight")]
    return any(w.shape[0] != w.shape[1] for w in spatial)


def _has_bottlenecks(weights: dict[str, Tensor]) -> bool:
    return any(name.endswith("res2.0.conv3.weight") for name in weights)


def _close(values: Sequence[float], others: Sequence[float]) -> bool:
    return all(abs(value - other) < 1 for value, other in zip(values, others))
