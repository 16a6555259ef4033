"""An exported detector finds what the detector finds, from the image alone."""

import functools
import importlib.util
import json
import re

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from aa_detection import Detector
from aa_detection.engines import load_engine
from aa_detection.evaluation import Detections
from aa_detection.export import (
    DisagreementError,
    detector_check,
    export_detector,
    onnx_detector,
)

from .conftest import AA_CONFIG, ROOT, TINY, resemble_trained

SIZES = ((31, 33), (96, 64), (75, 130))


@pytest.fixture(scope="module", autouse=True)
def _onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    if not importlib.util.find_spec("detectron2"):
        pytest.importorskip("lightning", reason="Lightning is not installed")


@pytest.fixture
def main(load_tool):
    return load_tool("export_model").main


@pytest.fixture(scope="module")
def confident(sample_root, tmp_path_factory):
    """``confident(engine)``: a checkpoint whose scores differ as those of a trained detector."""

    @functools.cache
    def _confident(engine):
        output = tmp_path_factory.mktemp("confident") / "a run"
        # exporting takes time with every layer
        overrides = ["MODEL.ATTENTION.STAGES", "['res5']", "OUTPUT_DIR", str(output)]
        engine.run(engine.load_config(AA_CONFIG, [*TINY, *overrides]))
        file = output / "model_final.pth"
        checkpoint = torch.load(file, weights_only=True)
        checkpoint["model"]["head.cls_score.weight"] *= 10
        torch.save(checkpoint, file)
        return file

    return _confident


@pytest.fixture(scope="module")
def exported(confident, load_tool, tmp_path_factory):
    """``exported(engine, *words)``: the file that the command writes."""

    @functools.cache
    def _exported(engine, *words):
        output = tmp_path_factory.mktemp("exported") / "detector.onnx"
        name = engine.__name__.rpartition(".")[2]
        command = ["--engine", name, "--config-file", str(confident(engine)), "--format", "onnx"]
        command += ["--detector", "--output", str(output), *words]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(detector_check, "SIZES", SIZES)
            assert load_tool("export_model").main(command) == 0
        assert list(output.parent.iterdir()) == [output]
        return output

    return _exported


@pytest.fixture
def auto_engine():
    """One engine, because exporting takes long: detectron2 where it is installed."""
    return load_engine("auto")


@pytest.fixture
def photo(sample_dataset, tmp_path):
    """An image file that is not of the network's size."""
    path = sorted((sample_dataset / "val").iterdir())[0]
    Image.open(path).convert("RGB").resize((150, 117)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def program():
    """The program of docs/export.md that runs the whole detector."""
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    (block,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if 'InferenceSession("detector.onnx")' in block
    )
    return block


@pytest.mark.parametrize("name", ["auto", pytest.param("torchvision", marks=pytest.mark.slow)])
def test_the_documented_program_finds_what_the_detector_finds(
    name, confident, exported, photo, monkeypatch, capsys
):
    engine = load_engine(name)
    (photo.parent / "detector.onnx").symlink_to(exported(engine))
    monkeypatch.chdir(photo.parent)
    capsys.readouterr()
    names = {}
    exec(program(), names)
    lines = capsys.readouterr().out.splitlines()
    imports = set(re.findall(r"^(?:import|from) (\w+)", program(), re.MULTILINE))
    assert imports == {"json", "numpy", "onnxruntime", "PIL"}

    detector = Detector.load(confident(engine), engine=name, device="cpu")
    found = detector.predict(str(photo), score_threshold=0)
    assert len(found) > 10 and len(set(found.class_names)) > 1
    np.testing.assert_allclose(names["boxes"], found.boxes, atol=0.1)
    np.testing.assert_allclose(names["scores"], found.scores, atol=1e-3)
    assert names["classes"].tolist() == found.class_ids.tolist()
    assert all(line.startswith(name) for line, name in zip(lines, found.class_names, strict=True))


def test_what_the_file_says(auto_engine, exported, sample_dataset):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported(auto_engine))
    (image,) = session.get_inputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    assert image.shape == ["height", "width", 3]
    assert [(output.name, output.type, output.shape) for output in session.get_outputs()] == [
        ("boxes", "tensor(float)", ["detections", 4]),
        ("scores", "tensor(float)", ["detections"]),
        ("classes", "tensor(int64)", ["detections"]),
    ]
    categories = json.loads((sample_dataset / "annotations/train.json").read_text())["categories"]
    assert session.get_modelmeta().custom_metadata_map == {
        "class_names": json.dumps([category["name"] for category in categories]),
        "category_ids": json.dumps([category["id"] for category in categories]),
        "min_size": "64",
        "max_size": "96",
        "score_threshold": "0.0",
        "nms_threshold": "0.5",
        "topk_candidates": "1000",
        "detections_per_image": "20",
    }


def in_openvino(file):
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would take bfloat16
    compiled = openvino.Core().compile_model(file, "CPU", hint)

    def run(image):
        results = compiled(image)
        return [results[i] for i in range(3)]

    return run


def test_in_openvino(auto_engine, exported):
    pytest.importorskip("openvino", reason="openvino is not installed")
    file = exported(auto_engine)
    run = in_openvino(file)
    for size in SIZES:
        image = detector_check.patches(*size)
        expected = detector_check.OnnxDetector(file)(image)
        assert len(expected[0]) > 10
        box, score = detector_check.differences(expected, run(image), 20, image.shape)
        assert box <= 0.1 and score <= 1e-3


@pytest.mark.slow
def test_boxes_before_suppression(engine, exported):
    """The command has compared the values."""
    import onnxruntime

    session = onnxruntime.InferenceSession(exported(engine, "--no-nms"))
    names = [output.name for output in session.get_outputs()]
    assert names == ["boxes", "scores"]
    boxes, scores = session.run(None, {"image": detector_check.patches(75, 130)})
    anchors = 9 * (12 * 20 + 6 * 10 + 3 * 5 + 2 * 3 + 1 * 2)  # of 96x160
    assert boxes.shape == (1, anchors, 4) and scores.shape == (1, anchors, 5)


def test_an_image_without_objects(auto_engine, exported):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    one = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(1, np.float32))
    options.add_initializer(onnx_detector.SCORE_THRESHOLD, one)
    session = onnxruntime.InferenceSession(exported(auto_engine), options)
    outputs = session.run(None, {"image": np.zeros((50, 40, 3), np.uint8)})
    assert [output.shape for output in outputs] == [(0, 4), (0,), (0,)]


# ---- decoding, selection and preprocessing, without a network ----------------------------------


@pytest.fixture
def select(torchvision_engine, tiny_config):
    """``select(overrides, scale)``: what the embedded detector and ONNX make of predictions.

    Of random ones, which `scale` multiplies.
    """
    import onnx_ir as ir
    import onnxruntime

    def _select(*overrides, scale=(1.0, 1.0), image_size=(90, 75), suppress=True):
        cfg = tiny_config(torchvision_engine, "MODEL.ATTENTION.CONV", "", *overrides)
        model = torchvision_engine.build_model(cfg).eval()
        levels, strides = cfg.MODEL.RETINANET.IN_FEATURES, (8, 16, 32, 64, 128)
        rows, columns = (-(-side // 32) * 32 for side in image_size)
        sizes = [(-(-rows // stride), -(-columns // stride)) for stride in strides]
        count = model.anchor_generator.num_anchors_per_location()[0]
        torch.manual_seed(0)
        predictions = {}
        for level, size in zip(levels, sizes):
            for name, values, factor in zip(
                onnx_detector.prediction_names(level), (model.head.num_classes, 4), scale
            ):
                predictions[name] = factor * torch.randn(1, count * values, *size)

        inputs = [
            ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(x.shape))
            for name, x in predictions.items()
        ]
        shape = ir.Shape([None, None, 3])
        image = ir.Value(name="image", type=ir.TensorType(ir.DataType.UINT8), shape=shape)
        graph = ir.Graph([*inputs, image], inputs, nodes=[], opset_imports={"": 18}, name="boxes")
        if suppress:
            onnx_detector.add_detections(graph, cfg, dict(zip(levels, strides)), image)
        else:
            onnx_detector.add_boxes(graph, cfg, dict(zip(levels, strides)))
        session = onnxruntime.InferenceSession(
            ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
        )
        arrays = {name: x.numpy() for name, x in predictions.items()}
        got = session.run(None, arrays | {"image": np.zeros((*image_size, 3), np.uint8)})

        flat = {
            kind: [
                predictions[onnx_detector.prediction_names(level)[i]]
                .unflatten(1, (count, -1))
                .permute(0, 3, 4, 1, 2)
                .flatten(1, 3)
                for level in levels
            ]
            for i, kind in enumerate(("cls_logits", "bbox_regression"))
        }
        maps = [torch.zeros(1, 1, *size) for size in sizes]
        images = torchvision.models.detection.image_list.ImageList(None, [image_size])
        anchors = model.anchor_generator(images, maps)[0].split(
            [x.shape[1] for x in flat["cls_logits"]]
        )
        (found,) = model.postprocess_detections(flat, [list(anchors)], [image_size])
        expected = Detections.of(found["boxes"], found["scores"], found["labels"])
        return expected, got

    return _select


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        ([], (1.0, 0.3)),
        (["MODEL.RETINANET.NUM_CLASSES", "1"], (3.0, 0.3)),
        (["MODEL.RETINANET.SCORE_THRESH_TEST", "0.97", "TEST.DETECTIONS_PER_IMAGE", "100"], (2, 1)),
        (["MODEL.RETINANET.TOPK_CANDIDATES_TEST", "7"], (1.0, 3.0)),
        (["MODEL.RETINANET.NMS_THRESH_TEST", "0.1", "TEST.DETECTIONS_PER_IMAGE", "1"], (1, 1)),
        (
            ["MODEL.RETINANET.BBOX_REG_WEIGHTS", "(10.0, 10.0, 5.0, 5.0)"]
            + ["MODEL.ANCHOR_GENERATOR.OFFSET", "0.5"]
            + ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16], [32], [64], [128]]"]
            + ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.3, 3.0]]"],
            (1.0, 8.0),
        ),
    ],
    ids=["default", "one class", "high threshold", "few a level", "one box", "other anchors"],
)
def test_selection(select, overrides, scale):
    expected, (boxes, scores, classes) = select(*overrides, scale=scale)
    assert len(expected)
    np.testing.assert_array_equal(classes, expected.classes)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)


def test_nothing_selected(select):
    expected, got = select("MODEL.RETINANET.SCORE_THRESH_TEST", "1.0")
    assert len(expected) == 0
    assert [(output.shape, output.dtype) for output in got] == [
        ((0, 4), np.float32),
        ((0,), np.float32),
        ((0,), np.int64),
    ]


def test_detections_are_among_the_boxes_of_all_anchors(select):
    expected, got = select("TEST.DETECTIONS_PER_IMAGE", "50", suppress=False, scale=(1.0, 0.3))
    detections = expected.boxes, expected.scores, expected.classes
    assert len(expected) > 40
    box, score = detector_check.differences(detections, got, 50, (90, 75, 3))
    assert box < 1e-3 and score < 1e-6
    wrong = [got[0] + 0.2, got[1]]
    assert detector_check.differences(detections, wrong, 50, (90, 75, 3))[0] > 0.1


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_preprocessing(torchvision_engine, tiny_config, order):
    """As the embedded detector's, which takes channels in the order of ``INPUT.FORMAT``."""
    import onnx_ir as ir
    import onnxruntime

    cfg = tiny_config(torchvision_engine, "MODEL.ATTENTION.CONV", "", "INPUT.FORMAT", order)
    model = torchvision_engine.build_model(cfg)
    batch = ir.Value(name="images", type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "Identity", [batch], name="network")
    shape = ir.Shape([1, 3, None, None])
    (output,) = node.outputs
    output.name, output.type, output.shape = "output", batch.type, shape
    graph = ir.Graph([batch], [output], nodes=[node], opset_imports={"": 18}, name="images")
    onnx_detector.add_preprocessing(graph, cfg, 32)
    model_proto = ir.to_proto(ir.Model(graph, ir_version=10))
    session = onnxruntime.InferenceSession(model_proto.SerializeToString())
    for height, width in ((1, 33), (64, 96), (65, 31)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (got,) = session.run(None, {"image": image})
        ordered = image if order == "RGB" else image[:, :, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1)))
        expected, _ = model.transform([pixels])
        np.testing.assert_allclose(got, expected.tensors.numpy(), rtol=1e-6, atol=1e-6)


# ---- the check ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, s, c: (b + 0.2, s, c), "boxes within 2.0e-01 pixels"),
        (lambda b, s, c: (b, s + 2e-3, c), "scores within 2.0e-03"),
        (lambda b, s, c: (b, s, (c + 1) % 5), "differs from the detector"),
        (lambda b, s, c: (b[1:], s[1:], c[1:]), "differs from the detector"),
        (lambda b, s, c: (b, np.full_like(s, np.nan), c), "nan"),
        (lambda b, s, c: (b[:0], s[:0], c[:0]), "finds nothing in an image of 31x33"),
    ],
    ids=["boxes", "scores", "classes", "one missing", "NaN", "nothing"],
)
def test_other_detections_are_noticed(auto_engine, exported, monkeypatch, change, message):
    file = exported(auto_engine)
    monkeypatch.setattr(detector_check, "SIZES", SIZES)
    detect = detector_check.OnnxDetector(file)
    assert len(list(detector_check.check(detect, file, 20))) == 3
    with pytest.raises(DisagreementError, match=re.escape(message)):
        list(detector_check.check(lambda image: change(*detect(image)), file, 20))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no-nms", "--format", "onnx"], "--no-nms: expected with --detector"),
        (
            ["--detector", "--format", "torch_export"],
            "--detector: expected --format onnx, got --format torch_export",
        ),
        (
            ["--detector", "--format", "onnx", "--output", "no/folder/x.onnx"],
            "--output no/folder/x.onnx: there is no folder no/folder",
        ),
    ],
)
def test_mistakes_end_in_one_line(
    main, engine, engine_name, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    command = ["--engine", engine_name, "--config-file", AA_CONFIG, "--output", "x.onnx", *words]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_two_stage_detector_is_refused_by_name(main, detectron2_engine, tmp_path, capsys):
    config = str(ROOT / "configs/aa_faster_rcnn_R101_FPN.yaml")
    command = ["--engine", "detectron2", "--config-file", config, "--format", "onnx"]
    assert main([*command, "--detector", "--output", str(tmp_path / "x.onnx")]) == 2
    error = capsys.readouterr().err
    expected = "MODEL.META_ARCHITECTURE: got 'GeneralizedRCNN', and --detector exports RetinaNet"
    assert expected in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


# ---- at full size ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("config", ["aa_retinanet_R50", "sample/aa_retinanet_R18"])
def test_whole_detectors_at_every_size(torchvision_engine, tmp_path, config):
    """With random weights and statistics of random images; prints what it finds."""
    from aa_detection.engines.torchvision.predict import TorchvisionDetector

    overrides = ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"]
    overrides += ["MODEL.DEVICE", "cpu", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"]
    cfg = torchvision_engine.load_config(
        str(ROOT / f"configs/{config}.yaml"), [*overrides, "INPUT.MIN_SIZE_TEST", "0"]
    )
    torch.manual_seed(0)
    model = torchvision_engine.build_model(cfg)
    resemble_trained(model.backbone, cfg)
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.1)
    detector = TorchvisionDetector(cfg, model.eval(), {})

    def detect(image):
        (found,) = detector([image[:, :, ::-1]])
        return found.boxes, found.scores, found.classes

    for suppress in (False, True):
        file = tmp_path / "detector.onnx"
        print(f"{config}, {'detections' if suppress else 'boxes of all anchors'}")
        export_detector(
            model, cfg, file, detect=detect, categories={}, suppress=suppress, report=print
        )
    if not importlib.util.find_spec("openvino"):
        return
    run = in_openvino(file)
    for size in detector_check.SIZES:
        image = detector_check.patches(*size)
        box, score = detector_check.differences(detect(image), run(image), 100, image.shape)
        rows, columns = size
        print(f"in OpenVINO, {rows}x{columns}: boxes within {box:.1e}, scores within {score:.1e}")
        assert box <= 0.1 and score <= 1e-3
