"""The table of starts at toy scale: one step, two starts, one mask; then again."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from aa_detection.checkpoints import write_weights
from aa_detection.checkpoints.names import detectron2_name
from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.engines import ENGINES, load_engine
from aa_detection.layers import AAConv2d
from aa_detection.models import AttentionSpec, augment
from aa_detection.models.resnet import is_frozen_norm
from aa_detection.studies import starts

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/gains/sample_R18.yaml")


@pytest.fixture
def randomised():
    """A torchvision ResNet with norms as of a trained network."""

    def _randomised(depth, norm_layer=nn.BatchNorm2d):
        torch.manual_seed(0)
        network = getattr(torchvision.models, f"resnet{depth}")(norm_layer=norm_layer).eval()
        for name, tensor in network.state_dict().items():
            if "bn" in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
        return network

    return _randomised


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_ranking_filters_changes_their_order_alone(randomised, depth):
    network = randomised(depth).double()
    ranked = copy.deepcopy(network)
    starts.rank_filters(ranked)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ranked(x), network(x), rtol=1e-9, atol=1e-9)
    block = ranked.layer3[1]
    norm, reader = (block.bn1, block.conv2) if depth == 18 else (block.bn2, block.conv3)
    matters = norm.weight.abs() * reader.weight.square().sum(dim=(0, 2, 3)).sqrt()
    assert (matters.diff() <= 0).all() and matters[0] > matters[-1]


def test_the_thawed_start_is_a_trainable_norm_behind_the_concatenation(randomised, monkeypatch):
    monkeypatch.setitem(starts.CONVS, "aa_thawed", starts._thawed)
    network = randomised(18, torchvision.ops.FrozenBatchNorm2d)
    augment(network, AttentionSpec("aa_thawed", stages=("res5",)))
    assert isinstance(network.layer4[0].conv1, AAConv2d)
    assert network.layer4[0].conv1.merge == "concat"
    assert type(network.layer4[0].bn1) is nn.BatchNorm2d and is_frozen_norm(network.layer3[0].bn1)


@pytest.fixture(params=ENGINES)
def study(request, load_tool, tmp_path, monkeypatch, capsys):
    """``study(*words)``: status, printed, and what was written to standard error."""
    if request.param == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    chosen = ("plain", "concat, least filters")
    monkeypatch.setattr(starts, "STARTS", {name: starts.STARTS[name] for name in chosen})
    monkeypatch.setattr(starts, "MASKS", ("all",))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_sample_dataset(tmp_path, num_train=4, num_val=2)
    engine = load_engine(request.param)
    torch.manual_seed(0)
    model = engine.build_model(engine.load_config(CONFIG, ["MODEL.DEVICE", "cpu"]))
    weights = str(tmp_path / "plain.safetensors")
    write_weights(weights, {detectron2_name(k): v for k, v in model.state_dict().items()})
    tool = load_tool("study_starts")
    command = ["--engine", request.param, "--config-file", CONFIG, "--steps", "1"]
    command += ["--record", str(tmp_path / "rows.json"), "--work", str(tmp_path / "work")]
    command += ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", "cpu"]

    def _study(*words):
        return tool.main([*command, *words]), *capsys.readouterr()

    return _study


def test_end_to_end_and_again(study, tmp_path):
    status, printed, _ = study()
    assert status == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["start"], row["mask"]) for row in rows] == [
        ("plain", "all"), ("concat, least filters", "all")
    ]  # fmt: skip
    assert all(0 <= row[when] <= 100 for row in rows for when in ("before", "after"))
    assert 0 < rows[0]["batch_difference"] < 1
    assert "| concat, least filters | " in printed
    (tmp_path / "work").rename(tmp_path / "gone")
    status, again, _ = study()
    assert status == 0 and not (tmp_path / "work").exists(), "rows that are there were made again"
    assert again in printed
    status, _, error = study("SEED", "3")
    assert status == 2 and error.count("\n") == 1 and "rows of another study" in error
