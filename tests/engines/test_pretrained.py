"""Runs that start from other frameworks' weights, on either engine."""

import pickle
import re

import pytest
import torch
import torchvision

from aa_detection.checkpoints.names import from_torchvision
from aa_detection.config import ConfigError

RGB = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", "[123.675,116.28,103.53]",
       "MODEL.PIXEL_STD", "[58.395,57.12,57.375]"]  # fmt: skip


# the same lines on both engines
REPORT = [
    "weights: 90 of 178 tensors loaded, 30 sliced, 0 re-indexed, 58 fresh; 2 of the checkpoint "
    "unused; 97.5% of the backbone's parameters loaded",
    "weights sliced: backbone.bottom_up.res3.*.conv1 (10), backbone.bottom_up.res4.*.conv1 (10), "
    "backbone.bottom_up.res5.*.conv1 (10)",
    "weights fresh: "
    + "".join(
        f"backbone.bottom_up.{stage}.*.conv1.proj (2), backbone.bottom_up.{stage}.*.conv1.qkv (2), "
        f"backbone.bottom_up.{stage}.*.conv1 (4), "
        for stage in ("res3", "res4", "res5")
    )
    + "backbone.fpn_lateral3 (3), backbone.fpn_lateral4 (3), backbone.fpn_lateral5 (3), "
    "backbone.fpn_output3 (3), backbone.fpn_output4 (3), backbone.fpn_output5 (3), "
    "backbone.top_block.p6 (2), backbone.top_block.p7 (2), "
    "head.bbox_pred (2), head.bbox_subnet.* (4), head.cls_score (2), head.cls_subnet.* (4)",
    "weights unused: linear (2)",
]


@pytest.fixture
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=2).state_dict()


def report(output):
    lines = (output / "log.txt").read_text().splitlines()
    return [
        found[0] for found in (re.search(r"weights(?:| \w+): .*", line) for line in lines) if found
    ]


def without_learning(output):
    """What a tensor of the final checkpoint was before training: the rate moves none."""
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


# moves no weight
STILL = ["SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "1e-30", "DATASETS.TEST", "()"]


def test_torchvision_resnet(engine, run, resnet, tmp_path):
    path = tmp_path / "r18.pth"
    torch.save(resnet, path)
    with pytest.raises(ConfigError) as error:
        run(engine, tmp_path / "out", "MODEL.WEIGHTS", str(path))
    assert str(error.value) == (
        f"MODEL.WEIGHTS {path}: torchvision's weights, and the config contradicts what they were "
        "trained with: set INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], "
        "MODEL.PIXEL_STD [58.395, 57.12, 57.375]"
    )
    assert not (tmp_path / "out").exists()
    run(engine, tmp_path / "out", "MODEL.WEIGHTS", str(path), *RGB, *STILL)
    assert report(tmp_path / "out") == REPORT
    final = without_learning(tmp_path / "out")
    source = from_torchvision(resnet)
    for name in ("stem.conv1.weight", "res2.1.conv2.weight", "res5.1.conv2.weight"):
        assert torch.equal(final[f"backbone.bottom_up.{name}"], source[name]), name
    kept = final["backbone.bottom_up.res4.1.conv1.weight"]
    assert torch.equal(kept, source["res4.1.conv1.weight"][: len(kept)])
    assert 200 < len(kept) < 256


def test_pickle_and_partial_weights(engine, run, resnet, tmp_path):
    arrays = {
        f"{name}": tensor.numpy()
        for name, tensor in from_torchvision(resnet).items()
        if not name.startswith("res5.")
    }
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}))
    output = tmp_path / "out"
    overrides = ["MODEL.WEIGHTS", str(path), *STILL]
    with pytest.raises(ConfigError, match="R-18.pkl: a pickle, which could run code"):
        run(engine, output, *overrides)
    with pytest.raises(ConfigError, match=r"R-18.pkl: only 2\d\.\d% of the backbone's parameters"):
        run(engine, output, *overrides, allow_pickle=True)
    assert not output.exists()
    run(engine, output, *overrides, allow_pickle=True, allow_partial=True)
    final = without_learning(output)
    assert torch.equal(
        final["backbone.bottom_up.res4.0.conv2.weight"],
        torch.from_numpy(arrays["res4.0.conv2.weight"]),
    )
