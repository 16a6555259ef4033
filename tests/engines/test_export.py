"""Exported files compute what the network computes, and one that does not is not kept."""

import json
import resource
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock

from aa_detection.config import ConfigError
from aa_detection.export import FORMATS, DisagreementError, check, export_backbone, formats
from aa_detection.layers import AAConv2d
from aa_detection.models import AttentionSpec, augment

from .conftest import resemble_trained

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((160, 192), (224, 160))
SMALL_SIZES = ((96, 128), (128, 96))
# inputs near 1, as a network with batch norms that never saw an image expects them
STD = "[57.4, 57.1, 58.4]"
PIXELS = {"pixel_mean": [103.53, 116.28, 123.675], "pixel_std": [57.4, 57.1, 58.4]}
# exporting takes time with every layer
LAST = ["MODEL.ATTENTION.STAGES", "['res5']"]

ALL_FORMATS = pytest.mark.parametrize("format", FORMATS)
# see docs/export.md
PARITY = pytest.mark.skipif(
    torch.__version__ >= "2.9" and torch.__version__ < "2.14",
    reason="this PyTorch's torch.export takes sizes for odd or even where coarse maps are pooled",
)


@pytest.fixture
def network(tiny_config):
    """``network(engine, *overrides)``: the backbone of a config, with random weights."""

    def _network(engine, *overrides):
        cfg = tiny_config(engine, "MODEL.DEVICE", "cpu", "MODEL.PIXEL_STD", STD, *overrides)
        torch.manual_seed(0)
        return engine.build_model(cfg).eval().backbone

    return _network


@pytest.fixture
def small_backbone():
    """``small_backbone(**spec)``: of one block a stage, attention in the last, and no pyramid."""

    def _small_backbone(**spec):
        torch.manual_seed(0)
        resnet = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1])
        augment(resnet, AttentionSpec(stages=("res5",), max_image_size=160, **spec))
        for module in resnet.modules():
            if isinstance(module, AAConv2d):
                torch.nn.init.xavier_uniform_(module.proj.weight)  # added attention starts at zero
        return IntermediateLayerGetter(resnet, {"layer4": "res5"}).eval()

    return _small_backbone


@pytest.fixture
def export(monkeypatch, tmp_path):
    """``export(backbone, format)``: the file, checked at two sizes, and what was compared."""

    def _export(backbone, format, sizes=SMALL_SIZES):
        for package in FORMATS[format].packages:
            pytest.importorskip(package, reason=f"{package} is not installed")
        agreements = []
        monkeypatch.setattr(check, "SIZES", sizes)
        export_backbone(
            backbone,
            tmp_path / "the file",
            format,
            **PIXELS,
            input_format="BGR",
            report=agreements.append,
        )
        return tmp_path / "the file", agreements

    return _export


@pytest.mark.parametrize(
    ("engine_name", "format"),
    [
        ("torchvision", "onnx"),
        ("detectron2", "onnx"),
        pytest.param("torchvision", "torch_export", marks=[pytest.mark.slow, PARITY]),
        pytest.param("detectron2", "torch_export", marks=[pytest.mark.slow, PARITY]),
    ],
)
def test_pooled_attention_with_padding(request, network, export, tmp_path, engine_name, format):
    engine = request.getfixturevalue(f"{engine_name}_engine")
    backbone = network(engine, *LAST, "MODEL.ATTENTION.AA.POOL_STAGES", "['res5']")
    file, agreements = export(backbone, format, SIZES)
    assert [(a.batch, a.height, a.width) for a in agreements] == [
        (batch, *size) for size in SIZES for batch in (1, 2)
    ]
    assert list(tmp_path.iterdir()) == [file]
    check_metadata(file, format, {f"p{n}": 2**n for n in range(3, 8)}, "160")

    exported = FORMATS[format].read(file)
    alone, batch = alone_and_padded(exported, backbone)
    assert list(batch) == ["p3", "p4", "p5", "p6", "p7"]
    # P6 is a convolution of what the ResNet makes, and this pixel of it is far from the padding
    torch.testing.assert_close(
        batch["p6"][2, :, 0, 0], alone["p6"][0, :, 0, 0], rtol=1e-4, atol=1e-4
    )


@PARITY
def test_pooled_attention_with_padding_and_no_pyramid(small_backbone, export):
    backbone = small_backbone(pool_stages=("res5",))
    file, agreements = export(backbone, "torch_export", ((96, 96), (128, 96)))
    assert len(agreements) == 4
    check_metadata(file, "torch_export", {"res5": 32}, "96")
    alone, batch = alone_and_padded(FORMATS["torch_export"].read(file), backbone)
    torch.testing.assert_close(batch["res5"][2, :, :5, :5], alone["res5"][0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def alone_and_padded(exported, backbone):
    """Maps of an image of 160x160 alone and, padded, as the last in a batch of three."""
    images = check.padded_batch(3, 192, 256, **PIXELS)
    images[2, :, 160:] = 0
    images[2, :, :, 160:] = 0
    batch, alone = exported(images), exported(images[2:, :, :160, :160].contiguous())
    for name, features in backbone(images).items():
        torch.testing.assert_close(batch[name], features, rtol=1e-4, atol=1e-4)
    return alone, batch


def check_metadata(file, format, strides, smallest_side):
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file)
        metadata = session.get_modelmeta().custom_metadata_map
        assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
        first = next(iter(strides))
        batch, _, *size = session.get_outputs()[0].shape
        assert [batch, *size] == ["batch", f"{first}_height", f"{first}_width"]
    else:
        extra = {"metadata.json": ""}
        with open(file, "rb") as opened:
            graph = torch.export.load(opened, extra_files=extra).graph
        # the file loads where this project is not installed
        assert not any("aa_detection" in str(node.target) for node in graph.nodes)
        metadata = json.loads(extra["metadata.json"])
    assert {name: json.loads(metadata[name]) for name in PIXELS} == PIXELS
    assert metadata["input_format"] == "BGR"
    assert json.loads(metadata["strides"]) == strides
    assert (metadata["size_divisibility"], metadata["smallest_side"]) == ("32", smallest_side)


@pytest.mark.parametrize(
    "spec",
    [
        {"conv": "aw", "gate": "se"},
        {"gate": "cbam", "relative": False, "absolute": True},
        {"conv": "aw", "mask_padding": "none"},
        {"merge": "add"},
    ],
    ids=["aw, se", "aa with absolute positions, cbam", "aw, padding not masked", "aa, added"],
)
def test_every_kind_of_attention(small_backbone, export, spec):
    _, agreements = export(small_backbone(**spec), "onnx")
    assert len(agreements) == 4


@ALL_FORMATS
def test_a_wrong_weight_is_noticed_and_nothing_is_kept(
    small_backbone, export, tmp_path, monkeypatch, format
):
    (tmp_path / "the file").write_text("of an earlier export")
    kind = FORMATS[format]

    def write_wrongly(program, metadata, file):
        table = next(name for name in program.state_dict if name.endswith("rel_w"))
        program.state_dict[table] = torch.nn.Parameter(program.state_dict[table] * 1.5)
        kind.write(program, metadata, file)

    wrong = formats.Format(kind.attention, kind.packages, write_wrongly, kind.read)
    monkeypatch.setitem(FORMATS, format, wrong)
    with pytest.raises(DisagreementError, match=r"differs .* batch 1 of 96x128: .* at res5, more"):
        export(small_backbone(), format)
    assert [path.name for path in tmp_path.iterdir()] == ["the file"]
    assert (tmp_path / "the file").read_text() == "of an earlier export"


@pytest.mark.parametrize("wrong", ["file", "network"])
def test_maps_that_are_not_numbers_do_not_agree(monkeypatch, wrong):
    zeros = {"p3": torch.zeros(1, 2, 2, 2), "p4": torch.zeros(1, 2, 2, 2)}
    nan = {**zeros, "p4": torch.full((1, 2, 2, 2), torch.nan)}
    network, file = (nan, zeros) if wrong == "network" else (zeros, nan)
    monkeypatch.setattr(check, "SIZES", [(32, 32)])
    with pytest.raises(DisagreementError, match="nan at p4"):
        list(check.check(lambda x: network, lambda x: file, [0.5] * 3, [1.0] * 3))


def test_maps_of_another_size_do_not_agree(monkeypatch):
    monkeypatch.setattr(check, "SIZES", [(32, 32)])
    with pytest.raises(DisagreementError, match=r"are {'p3': \(1, 2\)}, expected {'p3': \(1, 3\)}"):
        list(
            check.check(
                lambda x: {"p3": torch.zeros(1, 3)},
                lambda x: {"p3": torch.zeros(1, 2)},
                [0.5] * 3,
                [1.0] * 3,
            )
        )


def test_a_file_that_takes_some_sizes_only(monkeypatch):
    def refuse(images):
        raise AssertionError("Guard failed: images.size()[2] % 2 != 0")

    monkeypatch.setattr(check, "SIZES", [(32, 64)])
    with pytest.raises(DisagreementError, match=r"take the batch of \(1, 3, 32, 64\) .*: Guard f"):
        list(check.check(lambda x: {"p3": x}, refuse, [0.5] * 3, [1.0] * 3))


@pytest.mark.slow
@ALL_FORMATS
@pytest.mark.parametrize(
    "config", ["aa_retinanet_R50", "retinanet_R50", "se_retinanet_R50", "sample/aa_retinanet_R18"]
)
def test_whole_networks_at_every_size(torchvision_engine, tmp_path, config, format):
    """With random weights and statistics of random images; prints what it finds."""
    cfg = torchvision_engine.load_config(
        str(ROOT / "configs" / f"{config}.yaml"),
        ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.DEVICE", "cpu"],
    )
    torch.manual_seed(0)
    backbone = torchvision_engine.build_model(cfg).backbone
    pixels = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}
    resemble_trained(backbone, cfg)
    input_format = cfg.INPUT.FORMAT
    export_backbone(
        backbone.eval(),
        tmp_path / "file",
        format,
        **pixels,
        input_format=input_format,
        report=print,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GB")
    assert peak < 6


@pytest.fixture
def main(load_tool):
    return load_tool("export_model").main


CONFIG = str(ROOT / "configs/sample/aa_retinanet_R18.yaml")


def test_command_line(main, torchvision_engine, tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "SIZES", SIZES)
    overrides = ["MODEL.PIXEL_STD", STD, "MODEL.ATTENTION.CONV", ""]
    from aa_detection.engines.torchvision.names import to_detectron2

    model = torchvision_engine.build_model(tiny_config(torchvision_engine, *overrides))
    torch.save({"model": to_detectron2(model)}, tmp_path / "model_final.pth")
    output = tmp_path / "back bone.pt2"
    command = ["--engine", "torchvision", "--config-file", CONFIG, "--format", "torch_export"]
    command += ["--output", str(output), *overrides, "MODEL.RETINANET.NUM_CONVS", "1"]
    command += ["OUTPUT_DIR", str(tmp_path)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].startswith("batch 1 of 160x192: ")
    assert lines[-1] == f"{output}: written" and output.exists()

    monkeypatch.setattr(check, "TOLERANCE", -1.0)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("export_model.py: the exported file differs ") and error.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--output", "no/folder/x.onnx"],
            "--output no/folder/x.onnx: there is no folder no/folder",
        ),
        (["--output", "."], "--output .: is a folder, expected the name of a file"),
        (["--output", "x.onnx", "MODEL.WEIGHTS", "no.pth"], "no.pth"),
    ],
)
def test_mistakes_end_in_one_line(main, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    command = ["--engine", "torchvision", "--config-file", CONFIG, "--format", "onnx", *words]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    formats.check_target(Path("x"), "torch_export")
    with pytest.raises(
        ConfigError, match=r"^--format onnx: onnx is not .* 'aa_detection\[export\]"
    ):
        formats.check_target(Path("x"), "onnx")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_padded_example_traces_the_mask(network, torchvision_engine):
    """As docs/export.md has it for TorchScript."""
    backbone = network(torchvision_engine, *LAST)
    padded = check.padded_batch(2, 160, 192, **PIXELS)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, padded[1:], strict=False, check_trace=False)
        for images in (padded, check.padded_batch(1, 224, 160, **PIXELS)):
            torch.testing.assert_close(traced(images), backbone(images))
