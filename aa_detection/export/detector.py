"""Export a whole detector to an ONNX file and check the file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from ..config import ConfigError
from .detector_check import Agreement, Detect, check
from .formats import FORMATS, check_target, to_onnx
from .graph import Predictions, geometry, trace
from .onnx_detector import add_boxes, add_detections, add_preprocessing
from .replacing import replacing

_ANCHORS = ("DefaultAnchorGenerator",)


def check_detector(cfg: CfgNode) -> None:
    """Refuse a detector that :func:`export_detector` cannot export, before loading its weights.

    Raises:
        ConfigError: names the key.
    """
    for key, value, exported in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, ("RetinaNet",)),
        ("MODEL.ANCHOR_GENERATOR.NAME", cfg.MODEL.ANCHOR_GENERATOR.NAME, _ANCHORS),
        ("INPUT.FORMAT", cfg.INPUT.FORMAT, ("BGR", "RGB")),
    ):
        if value not in exported:
            raise ConfigError(
                f"{key}: got {value!r}, and --detector exports {' and '.join(exported)} only; "
                "without it, backbone and pyramid are exported"
            )


def export_detector(
    model: nn.Module,
    cfg: CfgNode,
    file: Path,
    *,
    detect: Detect,
    categories: Mapping[int, str],
    suppress: bool = True,
    report: Callable[[Agreement], None] = lambda agreement: None,
) -> None:
    """Write a RetinaNet with all that surrounds it; keep the file only if it finds the same.

    The file takes one image, ``(height, width, 3)`` uint8 in RGB order, of any size. It returns its
    detections or, without suppression, the boxes and scores of all anchors: see
    :mod:`.onnx_detector`. Its metadata records class names and what a caller needs.

    Args:
        model: either engine's, on the CPU, in evaluation mode.
        cfg: the model's config.
        file: output path; an existing file is replaced once the new one is complete and checked.
        detect: the detector, with a score threshold of 0 and without resizing.
        categories: names by category id, in the order of the classes.
        suppress: whether to select detections.
        report: called with the result of every comparison.

    Raises:
        ConfigError: the detector is another than a RetinaNet, a package is missing, or `file`
            cannot be written.
        DisagreementError: the file finds something else; it is removed.
    """
    check_target(file, "onnx")
    check_detector(cfg)
    with replacing(file) as unchecked:
        onnx = _translate(model, cfg, suppress)
        onnx.model.metadata_props.update(_metadata(cfg, categories))
        onnx.save(unchecked, external_data=False)
        for agreement in check(detect, unchecked, cfg.TEST.DETECTIONS_PER_IMAGE):
            report(agreement)


def _translate(model: nn.Module, cfg: CfgNode, suppress: bool) -> Any:
    """Return the whole detector as a ``torch.onnx.ONNXProgram``."""
    sizes = geometry(model.get_submodule("backbone"))
    network = Predictions(model, cfg.MODEL.RETINANET.IN_FEATURES, FORMATS["onnx"].attention)
    onnx = to_onnx(trace(network, sizes))
    graph = onnx.model.graph
    image = add_preprocessing(graph, cfg, sizes.size_divisibility)
    if suppress:
        add_detections(graph, cfg, sizes.strides, image)
    else:
        add_boxes(graph, cfg, sizes.strides)
    return onnx


def _metadata(cfg: CfgNode, categories: Mapping[int, str]) -> dict[str, str]:
    retinanet = cfg.MODEL.RETINANET
    values = {
        "class_names": list(categories.values()),
        "category_ids": list(categories),
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "score_threshold": retinanet.SCORE_THRESH_TEST,
        "nms_threshold": retinanet.NMS_THRESH_TEST,
        "topk_candidates": retinanet.TOPK_CANDIDATES_TEST,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
    return {name: json.dumps(value) for name, value in values.items()}
