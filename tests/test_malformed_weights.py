"""A table of files of weights that cannot be used: each is refused in one line, on either engine.

Every row goes through the command line of ``train_net.py``, and must end with exit status 2, its
one line on standard error, and no file written or changed.
"""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save as save_safetensors

from aa_detection.checkpoints.names import from_torchvision

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/sample/aa_retinanet_R18.yaml"

# makes the file in a folder; returns words for the command
Make = Callable[[Path], list[str]]


def resnet18(spoil: Callable[[dict], object] = lambda weights: None) -> dict:
    """A ResNet-18's weights by detectron2's names, spoilt in place."""
    torch.manual_seed(0)
    weights = from_torchvision(torchvision.models.resnet18(num_classes=2).state_dict())
    spoil(weights)
    return weights


def without(weights: dict, prefix: str) -> None:
    for name in [name for name in weights if name.startswith(prefix)]:
        del weights[name]


def halved(weights: dict) -> None:
    for name, tensor in weights.items():
        if tensor.ndim == 4 and name.startswith("res"):
            weights[name] = tensor[: len(tensor) // 2]


def weights(file: str, write: Callable[[Path], object], *words: str) -> Make:
    """A file that MODEL.WEIGHTS names."""

    def make(folder):
        write(folder / file)
        return [*words, "MODEL.WEIGHTS", str(folder / file)]

    return make


def saved(content: Callable[[], object], cut: int | None = None) -> Make:
    """`content` as ``torch.save`` writes it, or the beginning of that."""

    def make(folder):
        path = folder / "w.pth"
        torch.save(content(), path)
        path.write_bytes(path.read_bytes()[:cut])
        return ["MODEL.WEIGHTS", str(path)]

    return make


def pickled(content: object, *words: str, cut: int | None = None) -> Make:
    return weights("w.pkl", lambda path: path.write_bytes(pickle.dumps(content)[:cut]), *words)


class Touch:
    """Makes a folder where it is unpickled as Python unpickles."""

    def __reduce__(self):
        return os.mkdir, ("made by a pickle",)


ALLOW = "--allow-pickle"
CAFFE2 = {"res2_0_branch2a_w": np.ones((4, 4, 1, 1), np.float32)}
MSRA = CAFFE2 | {
    "res2_0_branch2b_w": np.ones((4, 4, 3, 3), np.float32),
    "res2_0_branch2b_bn_s": np.ones(4, np.float32),
    "res2_0_branch2c_w": np.ones((8, 4, 1, 1), np.float32),
}
W = "MODEL.WEIGHTS {folder}/"
WEIGHTS = {
    "missing": (
        lambda folder: ["MODEL.WEIGHTS", "gone.pth"],
        "MODEL.WEIGHTS gone.pth: no such file",
    ),
    "folder": (
        lambda folder: ["MODEL.WEIGHTS", str(folder)],
        "MODEL.WEIGHTS {folder}: expected a file of weights, got a folder",
    ),
    "unknown address": (
        lambda folder: ["MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"],
        "MODEL.WEIGHTS detectron2://ImageNetPretrained/MSRA/R-50.pkl: a pickle, which could run "
        "code when it is read; --allow-pickle accepts it and reads arrays only",
    ),
    "empty": (weights("w.pth", lambda path: path.write_bytes(b"")), W + "w.pth: the file is empty"),
    "text": (
        weights("w.pth", lambda path: path.write_text("<!DOCTYPE html>\n<title>404</title>")),
        W + "w.pth: damaged, or not a file of tensors",
    ),
    "cut off": (saved(resnet18, cut=1_000_000), W + "w.pth: damaged, or not a file of tensors"),
    "archive of something else": (
        weights("w.pth", lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "text")),
        W + "w.pth: damaged, or not a file of tensors",
    ),
    "pickle without the flag": (
        pickled(CAFFE2),
        W + "w.pkl: a pickle, which could run code when it is read; --allow-pickle accepts it and "
        "reads arrays only",
    ),
    "pickle cut off": (
        pickled(CAFFE2, ALLOW, cut=80),
        W + "w.pkl: damaged, or not a pickle file",
    ),
    "pickle with code": (
        pickled({"model": {"a": Touch()}}, ALLOW),
        W + "w.pkl: it asks for posix.mkdir, and only arrays, numbers, texts and containers are "
        "read from a pickle",
    ),
    "pickle of a list": (
        pickled([np.ones(2)], ALLOW),
        W + "w.pkl: expected tensors by name, got list",
    ),
    "pickle of objects": (
        pickled({"a": np.array([None])}, ALLOW),
        W + "w.pkl: expected a dense tensor for a, got an array of object",
    ),
    "tensors by number": (
        pickled({1: np.ones(2)}, ALLOW),
        W + "w.pkl: expected tensors by name, got the name 1",
    ),
    "pth with code": (
        saved(lambda: {"model": {"a": torch.ones(2), "b": Touch()}}),
        W + "w.pth: it asks for posix.mkdir, and only tensors are read; nothing in it was run",
    ),
    "pth of a list": (
        saved(lambda: [torch.ones(2)]),
        W + "w.pth: expected tensors by name, got list",
    ),
    "pth of numbers": (
        saved(lambda: {"a": 3}),
        W + "w.pth: expected a dense tensor for a, got int",
    ),
    "pth of nothing": (saved(lambda: {"model": {}}), W + "w.pth: holds no tensors"),
    "complex numbers": (
        saved(lambda: {"a": torch.ones(2, dtype=torch.complex64)}),
        W + "w.pth: expected real numbers for a, got torch.complex64",
    ),
    "safetensors cut off": (
        weights(
            "w.safetensors",
            lambda path: path.write_bytes(save_safetensors({"a": torch.ones(9)})[:-3]),
        ),
        W + "w.safetensors: damaged, or not a safetensors file",
    ),
    "pth named safetensors": (
        weights("w.safetensors", lambda path: torch.save({"a": torch.ones(9)}, path)),
        W + "w.safetensors: damaged, or not a safetensors file",
    ),
    "two of a name": (
        saved(
            lambda: {"layer1.0.conv1.weight": torch.ones(1), "res2.0.conv1.weight": torch.ones(1)}
        ),
        W
        + "w.pth: two tensors of one name: layer1.0.conv1.weight and res2.0.conv1.weight are both "
        "res2.0.conv1.weight in the other layout",
    ),
    "anchors of no grid": (
        saved(
            lambda: {
                "head.classification_head.cls_logits.bias": torch.ones(5),
                "head.regression_head.bbox_reg.bias": torch.ones(20),
            }
        ),
        W + "w.pth: head.regression_head.bbox_reg.bias has 20 numbers, which are no boxes of 3 "
        "aspect ratios of each size",
    ),
    "another network": (
        saved(lambda: {"encoder.weight": torch.ones(2)}),
        W + "w.pth: no tensor of it fits the model; it lacks "
        "backbone.bottom_up.res5.0.conv2.weight",
    ),
    "half of the backbone": (
        saved(lambda: resnet18(lambda w: without(w, "res5."))),
        W + "w.pth: only 24.4% of the backbone's parameters load; it lacks "
        "backbone.bottom_up.res5.0.conv2.weight; --allow-partial-weights takes them",
    ),
    "another width": (
        saved(lambda: resnet18(halved)),
        W + "w.pth: only 0.3% of the backbone's parameters load; "
        "backbone.bottom_up.res5.0.conv2.weight is (256, 512, 3, 3), the model's "
        "(512, 512, 3, 3); --allow-partial-weights takes them",
    ),
    "another depth": (
        saved(
            lambda: resnet18(lambda w: w.update({"res2.0.conv3.weight": torch.ones(256, 64, 1, 1)}))
        ),
        W + "w.pth: a ResNet of bottlenecks (ResNet-50 and deeper), and MODEL.RESNETS.DEPTH makes "
        "one of basic blocks (ResNet-18, 34)",
    ),
    "weights that are NaN": (
        saved(lambda: resnet18(lambda w: w["res3.0.conv2.weight"].fill_(float("nan")))),
        W + "w.pth: backbone.bottom_up.res3.0.conv2.weight holds NaN or infinity; its run diverged",
    ),
    "whole numbers for weights": (
        saved(lambda: resnet18(lambda w: w.update({k: t.long() for k, t in w.items()}))),
        W + "w.pth: expected torch.float32 for backbone.bottom_up.stem.conv1.weight, got "
        "torch.int64",
    ),
    "RGB weights for BGR": (
        saved(lambda: torchvision.models.resnet18(num_classes=2).state_dict()),
        W + "w.pth: torchvision's weights, and the config contradicts what they were trained with: "
        "set INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD "
        "[58.395, 57.12, 57.375]",
    ),
    "BGR weights for RGB": (
        pickled(MSRA, ALLOW, "INPUT.FORMAT", "RGB"),
        W + "w.pkl: Detectron's weights, and the config contradicts what they were trained with: "
        "set INPUT.FORMAT BGR, MODEL.RESNETS.NORM FrozenBN",
    ),
}


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("train_net").main


@pytest.mark.parametrize(("make", "line"), WEIGHTS.values(), ids=WEIGHTS)
def test_unusable_weights(engine_name, make, line, main, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["--engine", engine_name, "--config-file", str(CONFIG), *words]) == 2
    expected = line.format(folder=tmp_path)
    assert capsys.readouterr().err == f"train_net.py: {expected}\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
