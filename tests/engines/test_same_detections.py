"""The same weights give the same detections on both engines."""

import json

import pytest
import torch

from aa_detection.checkpoints import write_weights
from aa_detection.checkpoints.names import detectron2_name

from .conftest import ROOT


def spread_out(model):
    """A head that tells its anchors apart, with boxes that stick out of the image as real ones do.

    An untrained head gives every anchor nearly the same score: which of them are the best hundred
    is then a matter of the last bit.
    """
    torch.manual_seed(7)
    for layer, std, mean in ((model.head.cls_score, 0.1, -4), (model.head.bbox_pred, 0.04, 0)):
        torch.nn.init.normal_(layer.weight, std=std)
        torch.nn.init.normal_(layer.bias, mean, 0.3)


def unmatched(found, others, box=0.1, score=1e-3):
    """Detections without a partner of their image and category among `others`, to a tolerance."""
    left = list(others)
    alone = []
    for d in found:
        near = (
            other
            for other in left
            if (other["image_id"], other["category_id"]) == (d["image_id"], d["category_id"])
            and abs(other["score"] - d["score"]) <= score
            and max(abs(a - b) for a, b in zip(other["bbox"], d["bbox"])) <= box
        )
        partner = next(near, None)
        if partner is None:
            alone.append(d)
        else:
            left.remove(partner)
    return alone


@pytest.mark.parametrize("mask", ["none", "all"])
def test_added_attention_starts_with_the_plain_detectors_results(
    engine, run, tiny_config, tmp_path, mask
):
    """A plain checkpoint: the same detections and the same AP, to the last bit."""
    model = engine.build_model(tiny_config(engine, "MODEL.ATTENTION.CONV", ""))
    spread_out(model)
    for name, tensor in model.state_dict().items():  # statistics as a trained network's
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    weights = str(tmp_path / "plain.safetensors")
    write_weights(weights, {detectron2_name(k): v for k, v in model.state_dict().items()})
    results = []
    for conv in ("", "aa"):
        output = tmp_path / f"out {conv}"
        keys = ["CONV", conv, "AA.MERGE", "add", "AA.MASK_PADDING", mask]
        keys[::2] = [f"MODEL.ATTENTION.{key}" for key in keys[::2]]
        overrides = ["MODEL.WEIGHTS", weights, *keys]
        metrics = run(engine, output, *overrides, eval_only=True, allow_partial=True)
        found = (output / "inference/coco_instances_results.json").read_text()
        results.append((found, str(metrics)))
    assert len(json.loads(results[0][0])) > 20
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("name", "threshold", "half", "candidates"),
    [
        ("retinanet_R18", "0.05", "False", "1000"),
        ("aa_retinanet_R18", "0.05", "False", "30"),  # of a level: fewer than it has
        ("aa_retinanet_R18", "0.5", "True", "1000"),  # trained in half precision, evaluated in full
    ],
)
def test_same_detections(
    torchvision_engine,
    detectron2_engine,
    run,
    tiny_config,
    tmp_path,
    name,
    threshold,
    half,
    candidates,
):
    """On images whose sides divide by nothing, resized, with boxes across their borders."""
    config = str(ROOT / f"configs/sample/{name}.yaml")
    overrides = ["INPUT.MIN_SIZE_TEST", "73", "INPUT.MAX_SIZE_TEST", "101",
                 "MODEL.RETINANET.SCORE_THRESH_TEST", threshold, "SOLVER.AMP.ENABLED", half,
                 "MODEL.RETINANET.TOPK_CANDIDATES_TEST", candidates,
                 "TEST.DETECTIONS_PER_IMAGE", "100"]  # fmt: skip
    model = detectron2_engine.build_model(tiny_config(detectron2_engine, config=config))
    spread_out(model)
    weights = str(tmp_path / "weights.safetensors")
    write_weights(weights, model.state_dict())
    results, numbers = [], []
    for engine in (torchvision_engine, detectron2_engine):
        output = tmp_path / engine.__name__.rpartition(".")[2]
        metrics = run(engine, output, *overrides, "MODEL.WEIGHTS", weights, config=config,
                      eval_only=True)  # fmt: skip
        results.append(json.loads((output / "inference/coco_instances_results.json").read_text()))
        numbers.append(metrics["bbox"])
    assert len(results[0]) > 50
    assert max(d["score"] for d in results[0]) - min(d["score"] for d in results[0]) > 0.1
    assert unmatched(*results) == []
    assert len(results[0]) == len(results[1])
    torch.testing.assert_close(*numbers, rtol=0, atol=1e-3, equal_nan=True)
