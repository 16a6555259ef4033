"""Every source into detectors of the embedded engine: what arrives where, and what is refused."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="Lightning is not installed")

from aa_detection.checkpoints import Checkpoint, load_checkpoint, read_checkpoint, read_configured
from aa_detection.checkpoints.names import from_torchvision
from aa_detection.config import ConfigError
from aa_detection.engines.torchvision import build_model, load_config
from aa_detection.engines.torchvision.names import to_detectron2

from .conftest import SIZES

ROOT = Path(__file__).resolve().parents[2]
RGB = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", "[123.675,116.28,103.53]",
       "MODEL.PIXEL_STD", "[58.395,57.12,57.375]"]  # fmt: skip
FROZEN = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", "2"]


def load_configured(cfg, model, **how):
    """What MODEL.WEIGHTS names, into a model: as a run does it."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpoint = read_configured(cfg, model, **how)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    report = load_checkpoint(model, checkpoint, allow_partial=how.get("allow_partial", False))
    return checkpoint, report


def config(*overrides, conv="aa"):
    name = "aa_retinanet_R18" if conv else "retinanet_R18"
    return load_config(str(ROOT / f"configs/sample/{name}.yaml"), list(overrides))


def resnet_of(model):
    return {
        name.removeprefix("backbone.bottom_up."): tensor
        for name, tensor in to_detectron2(model).items()
        if name.startswith("backbone.bottom_up.")
    }


@pytest.mark.parametrize("ending", [".pth", ".ckpt"])
def test_torchvision_imagenet_resnet(torchvision_resnet, save, ending):
    source = torchvision_resnet()
    cfg = config("MODEL.WEIGHTS", save(source.state_dict(), f"r18{ending}"), *RGB)
    model = build_model(cfg)
    _, report = load_configured(cfg, model)
    own = resnet_of(model)
    kept = 256 - 24  # the rest are attention's maps
    for name, tensor in from_torchvision(source.state_dict()).items():
        if name.startswith("linear") or not tensor.ndim:
            continue
        # attention is in the first convolution of each block from res3 on
        if name.startswith("res4.1.conv1."):
            assert torch.equal(own[name][:kept], tensor[:kept]), name
        elif not (".conv1." in name and name.startswith(("res3", "res4", "res5"))):
            assert torch.equal(own[name], tensor), name
    assert report.unused == ["linear.bias", "linear.weight"]
    assert len(report.sliced) == 6 * 5
    assert 0.9 < report.backbone_share < 1
    fresh = {name.split(".")[0] for name in report.fresh if "bottom_up" not in name}
    assert fresh == {"backbone", "head"}
    assert any("res3.0.conv1.qkv" in name for name in report.fresh)
    assert len(list(report.lines())) == 4 and all(len(line) < 1200 for line in report.lines())


def test_attention_merged_otherwise_is_refused(save):
    path = save(to_detectron2(build_model(config())), "model_final.pth")
    added = ["MODEL.ATTENTION.AA.MERGE", "add"]
    cfg = config("MODEL.WEIGHTS", path, *added)
    model = build_model(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        load_configured(cfg, model)
    assert str(error.value) == (
        f'MODEL.WEIGHTS {path}: its attention is merged by "concat", the model\'s by "add": set '
        "MODEL.ATTENTION.AA.MERGE concat; --allow-partial-weights loads the rest"
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    _, report = load_configured(cfg, model, allow_partial=True)
    assert "backbone.bottom_up.res3.0.conv1.weight" in report.misfits
    assert "backbone.bottom_up.res3.0.conv1.norm.weight" in report.fresh
    assert "backbone.bottom_up.res3.0.conv2.weight" in report.loaded

    path = save(to_detectron2(model), "model_final.pth")
    with pytest.raises(ConfigError, match='merged by "add", .* set MODEL.ATTENTION.AA.MERGE add;'):
        load_configured(config("MODEL.WEIGHTS", path), build_model(config()))


def test_msra_pickle(msra_pickle):
    path, source = msra_pickle()
    cfg = config("MODEL.WEIGHTS", path, *FROZEN, conv="")
    model = build_model(cfg)
    with pytest.raises(ConfigError, match=f"^MODEL.WEIGHTS {path}: a pickle"):
        load_configured(cfg, model)
    _, report = load_configured(cfg, model, allow_pickle=True)
    assert report.backbone_share == 1 and report.unused == ["linear.bias", "linear.weight"]
    own = resnet_of(model)
    for name, tensor in from_torchvision(source).items():
        if "running" not in name and not name.startswith("linear") and "num_" not in name:
            assert torch.equal(own[name], tensor), name
    assert (own["res5.0.shortcut.norm.running_var"] == 1).all()
    assert not own["res5.0.shortcut.norm.running_mean"].any()


def test_torchvision_pickle_of_the_zoo(torchvision_resnet, tmp_path):
    """As ``tools/convert-torchvision-to-d2.py`` of detectron2 writes ``torchvision/R-50.pkl``."""
    import pickle

    source = from_torchvision(torchvision_resnet().state_dict())
    arrays = {name.replace("linear", "stem.fc"): t.numpy() for name, t in source.items()}
    path = tmp_path / "R-18.pkl"
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    cfg = config("MODEL.WEIGHTS", str(path), *RGB, conv="")
    model = build_model(cfg)
    _, report = load_configured(cfg, model, allow_pickle=True)
    assert report.backbone_share == 1
    assert report.unused == ["stem.fc.bias", "stem.fc.weight"]
    with pytest.raises(ConfigError, match="torchvision's weights, .* set INPUT.FORMAT RGB"):
        bgr = config("MODEL.WEIGHTS", str(path), conv="")
        load_configured(bgr, model, allow_pickle=True)


RETINANET = [*RGB, "MODEL.FPN.OUT_CHANNELS", "256", "MODEL.FPN.NORM", "",
             "MODEL.RETINANET.NUM_CONVS", "4", "MODEL.RETINANET.NUM_CLASSES", "91",
             "MODEL.ANCHOR_GENERATOR.SIZES", str([list(sizes) for sizes in SIZES])]  # fmt: skip


@pytest.mark.parametrize("norm", ["", "GN"])
def test_torchvision_retinanet_computes_the_same(torchvision_retinanet, save, norm):
    theirs = torchvision_retinanet(norm or None)
    path = save(theirs.state_dict())
    cfg = config("MODEL.WEIGHTS", path, *RETINANET, "MODEL.RETINANET.NORM", norm, conv="")
    ours = build_model(cfg).eval()
    _, report = load_configured(cfg, ours)
    # with a norm torchvision's towers have no biases, and ours start at zero
    biases = [name for name in report.fresh if re.fullmatch(r"head\.\w+_subnet\.\d+\.bias", name)]
    assert report.fresh == biases and len(biases) == (8 if norm else 0)
    assert not (report.unused or report.sliced)
    image = torch.randint(0, 256, (3, 64, 96)).float()
    with torch.no_grad():
        batch = ours.transform([image])[0].tensors
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        )
        torch.testing.assert_close(batch[0], (image / 255 - mean) / std, rtol=1e-4, atol=1e-4)
        features = list(ours.backbone(batch).values())
        torch.testing.assert_close(features, list(theirs.backbone(batch).values()))
        expected, found = theirs.head(features), ours.head(features)
    for kind, values in (("cls_logits", 91), ("bbox_regression", 4)):
        # torchvision's anchors of a pixel: sizes of an aspect ratio; ours the other way round
        anchors = expected[kind].unflatten(1, (-1, 3, 3)).transpose(2, 3).flatten(1, 3)
        torch.testing.assert_close(found[kind], anchors)
        assert found[kind].shape[-1] == values


def test_classes_of_coco_are_chosen(torchvision_retinanet, save):
    theirs = torchvision_retinanet().state_dict()
    path = save(theirs)
    cfg = config("MODEL.WEIGHTS", path, *RETINANET, "MODEL.RETINANET.NUM_CLASSES", "80",
                 "MODEL.RETINANET.NORM", "", conv="")  # fmt: skip
    model = build_model(cfg)
    _, report = load_configured(cfg, model)
    assert report.sliced == ["head.cls_score.bias", "head.cls_score.weight"]
    assert not (report.fresh or report.unused)
    biases = theirs["head.classification_head.cls_logits.bias"].view(9, 91)
    # COCO's ids of detectron2's first, 12th (after an unused id) and last class
    for k, category in ((0, 1), (11, 13), (79, 90)):
        assert model.head.cls_score.bias.view(9, 80)[0, k] == biases[0, category], k


def test_classes_chosen_are_detectron2s():
    builtin = pytest.importorskip(
        "detectron2.data.datasets.builtin_meta", reason="detectron2 is not installed"
    )
    from aa_detection.checkpoints.loading import _COCO_UNUSED

    used = [i for i in range(91) if i not in _COCO_UNUSED]
    assert used == [c["id"] for c in builtin.COCO_CATEGORIES if c["isthing"]]


def test_pyramid_on_p5_lacks_p6(torchvision_retinanet, save):
    """torchvision's first RetinaNet takes P6 from P5; the rest of it loads, and the log says so."""
    path = save(torchvision_retinanet(p6_of="p5").state_dict())
    cfg = config("MODEL.WEIGHTS", path, *RETINANET, "MODEL.RETINANET.NORM", "", conv="")
    _, report = load_configured(cfg, build_model(cfg))
    assert report.fresh == ["backbone.top_block.p6.weight"]
    assert list(report.lines())[-1] == (
        "weights misfit: backbone.top_block.p6.weight is (256, 256, 3, 3), "
        "the model's (256, 512, 3, 3)"
    )


def test_training_checkpoint_of_lightning(save):
    torch.manual_seed(0)
    source = build_model(config())
    state = {f"model.{name}": tensor for name, tensor in source.state_dict().items()}
    path = save({"state_dict": state, "epoch": 0, "optimizer_states": []}, "iteration_0000003.ckpt")
    torch.manual_seed(1)
    cfg = config("MODEL.WEIGHTS", path)
    model = build_model(cfg)
    checkpoint, report = load_configured(cfg, model)
    assert not (report.fresh or report.unused)
    assert checkpoint.rest.keys() == {"epoch", "optimizer_states"}
    loaded, expected = to_detectron2(model), to_detectron2(source)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_other_distances_are_reindexed(save):
    source = build_model(config("MODEL.ATTENTION.AA.MAX_IMAGE_SIZE", "96"))
    cfg = config("MODEL.WEIGHTS", save({"model": to_detectron2(source)}))
    model = build_model(cfg)
    _, report = load_configured(cfg, model)
    assert len(report.reindexed) == 6 * 2 and not (report.fresh or report.unused)
    assert any(line.startswith("weights reindexed: ") for line in report.lines())


def test_resnet_of_other_blocks_is_refused(torchvision_resnet, save):
    """Half of a ResNet-18 would load from a ResNet-50: its second convolutions are as large."""
    path = save(torchvision_resnet(50).state_dict())
    cfg = config("MODEL.WEIGHTS", path, *RGB, "MODEL.RESNETS.STRIDE_IN_1X1", "False", conv="")
    model = build_model(cfg)
    with pytest.raises(ConfigError) as error:
        load_configured(cfg, model)
    assert str(error.value) == (
        f"MODEL.WEIGHTS {path}: a ResNet of bottlenecks (ResNet-50 and deeper), and "
        "MODEL.RESNETS.DEPTH makes one of basic blocks (ResNet-18, 34)"
    )
    _, report = load_configured(cfg, model, allow_partial=True)
    assert 0.5 < report.backbone_share < 0.6


def test_narrower_resnet_is_refused(torchvision_resnet, save):
    weights = {
        name: t if t.ndim < 2 or "layer" not in name else t[: len(t) // 2]
        for name, t in torchvision_resnet().state_dict().items()
    }
    path = save(weights)
    cfg = config("MODEL.WEIGHTS", path, *RGB, conv="")
    model = build_model(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        load_configured(cfg, model)
    assert str(error.value).startswith(f"MODEL.WEIGHTS {path}: only ")
    assert "% of the backbone's parameters load; " in str(error.value)
    assert str(error.value).endswith("; --allow-partial-weights takes them")
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    _, report = load_configured(cfg, model, allow_partial=True)
    assert 0 < report.backbone_share < 0.5


@pytest.mark.parametrize(
    ("stages", "refused"), [(("layer4",), True), (("layer2", "layer3"), False)]
)
def test_half_of_the_backbone_is_the_least(torchvision_resnet, save, stages, refused):
    weights = torchvision_resnet().state_dict()  # three quarters of a ResNet-18 are layer4
    left = {name: t for name, t in weights.items() if not name.startswith(stages)}
    cfg = config("MODEL.WEIGHTS", save(left), *RGB, conv="")
    if refused:
        with pytest.raises(ConfigError, match="only 2[0-9].[0-9]% of the backbone's parameters"):
            load_configured(cfg, build_model(cfg))
    else:
        _, report = load_configured(cfg, build_model(cfg))
        assert 0.7 < report.backbone_share < 0.8


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.fill_(float("nan")), "head.bbox_pred.bias holds NaN or infinity"),
        (lambda t: t.fill_(float("inf")), "head.bbox_pred.bias holds NaN or infinity"),
        (lambda t: t.long(), "expected torch.float32 for head.bbox_pred.bias, got torch.int64"),
        (lambda t: t.bool(), "expected torch.float32 for head.bbox_pred.bias, got torch.bool"),
    ],
)
def test_numbers_that_are_none(save, spoil, message):
    weights = to_detectron2(build_model(config()))
    weights["head.bbox_pred.bias"] = spoil(weights["head.bbox_pred.bias"].clone())
    path = save({"model": weights})
    cfg = config("MODEL.WEIGHTS", path)
    with pytest.raises(ConfigError, match=message):
        load_configured(cfg, build_model(cfg))


def test_half_precision_becomes_the_models(save):
    source = build_model(config())
    path = save({name: t.half() if t.is_floating_point() else t
                 for name, t in to_detectron2(source).items()})  # fmt: skip
    model = build_model(config())
    load_checkpoint(model, read_checkpoint(path))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.head.cls_score.weight, source.head.cls_score.weight,
                               rtol=1e-3, atol=1e-5)  # fmt: skip


def test_nothing_fits():
    weights = {"encoder.weight": torch.ones(2)}
    for allow in (False, True):
        with pytest.raises(ConfigError) as error:
            load_checkpoint(
                build_model(config()), Checkpoint("a.pth", weights), allow_partial=allow
            )
        assert str(error.value) == (
            "a.pth: no tensor of it fits the model; it lacks backbone.bottom_up.res5.0.conv2.weight"
        )
