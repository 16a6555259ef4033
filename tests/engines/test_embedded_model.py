"""The embedded RetinaNet computes what detectron2's computes from the same YAML and weights."""

import copy

import pytest
import torch

from aa_detection.checkpoints import Checkpoint, load_checkpoint
from aa_detection.checkpoints.names import detectron2_name
from aa_detection.engines.torchvision.data import shortest_edge
from aa_detection.engines.torchvision.module import lr_multiplier
from aa_detection.engines.torchvision.names import to_detectron2
from aa_detection.engines.torchvision.train import scale_workers


@pytest.fixture
def both(tiny_config, torchvision_engine, detectron2_engine):
    """Builds the two detectors of a config with the same random weights."""
    from detectron2.modeling import build_model

    def _both(*overrides):
        torch.manual_seed(0)
        ours = torchvision_engine.build_model(tiny_config(torchvision_engine, *overrides))
        theirs = build_model(tiny_config(detectron2_engine, *overrides))
        missing = theirs.load_state_dict(to_detectron2(ours))
        assert not missing.missing_keys and not missing.unexpected_keys
        return ours, theirs

    return _both


VARIANTS = pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["MODEL.ATTENTION.CONV", ""],
        ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"],
        ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256",
         "MODEL.RESNETS.STRIDE_IN_1X1", "False", "MODEL.FPN.NORM", "GN"],
        ["MODEL.RETINANET.NORM", "", "MODEL.RETINANET.NUM_CONVS", "2",
         "MODEL.ANCHOR_GENERATOR.OFFSET", "0.5"],
        ["MODEL.RESNETS.NORM", "GN", "MODEL.BACKBONE.FREEZE_AT", "0"],
        ["MODEL.ATTENTION.CONV", "aw", "MODEL.ATTENTION.GATE", "se"],
        ["MODEL.ATTENTION.CONV", "", "MODEL.ATTENTION.GATE", "cbam"],
        ["MODEL.ATTENTION.CONV", "aw", "MODEL.RESNETS.DEPTH", "50",
         "MODEL.RESNETS.RES2_OUT_CHANNELS", "256", "MODEL.RESNETS.NUM_GROUPS", "32",
         "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.RESNETS.STRIDE_IN_1X1", "False"],
    ],
)  # fmt: skip


@VARIANTS
def test_outputs_anchors_and_features(both, overrides):
    from torchvision.models.detection.image_list import ImageList

    ours, theirs = (model.eval() for model in both(*overrides))
    images = [torch.randint(0, 256, (3, *size)).float() for size in ((64, 83), (96, 70))]
    with torch.no_grad():
        batch = ours.transform(images)[0]
        padded = theirs.preprocess_image([{"image": image} for image in images]).tensor
        torch.testing.assert_close(batch.tensors, padded, rtol=0, atol=0)
        features = list(ours.backbone(batch.tensors).values())
        their_features = list(theirs.backbone(padded).values())
        torch.testing.assert_close(features, their_features, rtol=1e-4, atol=1e-5)
        head = ours.head(features)
        logits, deltas = theirs._transpose_dense_predictions(theirs.head(their_features), [5, 4])
    torch.testing.assert_close(head["cls_logits"], torch.cat(logits, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head["bbox_regression"], torch.cat(deltas, 1), rtol=1e-4, atol=1e-5)
    anchors = ours.anchor_generator(ImageList(padded, [(64, 83), (96, 70)]), features)[1]
    their_anchors = torch.cat([level.tensor for level in theirs.anchor_generator(their_features)])
    torch.testing.assert_close(anchors, their_anchors, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", "0.1", "MODEL.RETINANET.FOCAL_LOSS_GAMMA", "1.5"],
        ["MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "giou"],
        ["MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "ciou"],
    ],
)
def test_losses_are_detectron2s(both, overrides):
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    ours, theirs = (model.train() for model in both(*overrides))
    images = [
        torch.randint(0, 256, (3, 96, 70)).float(),
        torch.randint(0, 256, (3, 64, 90)).float(),
    ]
    # an image without objects among them
    boxes = [torch.tensor([[5.0, 8.0, 40.0, 60.0], [20.0, 10.0, 36.0, 30.0]]), torch.zeros(0, 4)]
    labels = [torch.tensor([4, 1]), torch.zeros(0, dtype=torch.int64)]
    inputs = []
    for image, box, label in zip(images, boxes, labels):
        instances = Instances(tuple(image.shape[1:]), gt_boxes=Boxes(box), gt_classes=label)
        inputs.append({"image": image, "instances": instances})
    targets = [{"boxes": box, "labels": label} for box, label in zip(boxes, labels)]
    for _ in range(2):  # the normaliser moves
        losses = ours(images, targets)
        with EventStorage():
            their_losses = theirs(inputs)
        for name in ("loss_cls", "loss_box_reg"):
            torch.testing.assert_close(losses[name], their_losses[name], rtol=1e-4, atol=1e-6)


def test_losses_without_any_object_are_detectron2s(both):
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    ours, theirs = (model.train() for model in both())
    image = torch.randint(0, 256, (3, 64, 90)).float()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    instances = Instances((64, 90), gt_boxes=Boxes(nothing["boxes"]), gt_classes=nothing["labels"])
    for _ in range(2):  # the normaliser moves towards one object, not none
        losses = ours([image], [nothing])
        with EventStorage():
            expected = theirs([{"image": image, "instances": instances}])
        assert losses["loss_box_reg"] == expected["loss_box_reg"] == 0
        torch.testing.assert_close(losses["loss_cls"], expected["loss_cls"], rtol=1e-4, atol=1e-6)
    assert float(ours.head.loss_normalizer) == pytest.approx(theirs.loss_normalizer)


def test_a_head_starts_as_detectron2s(tiny_config, torchvision_engine, detectron2_engine):
    """Its weights by their spread, its biases, the prior of an object among them, exactly."""
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    ours = torchvision_engine.build_model(tiny_config(torchvision_engine)).head
    theirs = build_model(tiny_config(detectron2_engine)).head
    weights = {name: p for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        if parameter.ndim > 1:
            spread = float(parameter.detach().std())
            assert spread == pytest.approx(float(weights[name].std()), rel=0.05)
        else:
            torch.testing.assert_close(parameter, weights[name])


@VARIANTS
def test_names_there_and_back(tiny_config, torchvision_engine, overrides):
    model = torchvision_engine.build_model(tiny_config(torchvision_engine, *overrides))
    state = model.state_dict()
    names = [detectron2_name(name) for name in state]
    assert len(set(names)) == len(names)
    torch.manual_seed(1)
    other = torchvision_engine.build_model(tiny_config(torchvision_engine, *overrides))
    report = load_checkpoint(other, Checkpoint("memory", to_detectron2(model)))
    assert not (report.fresh or report.unused or report.sliced or report.reindexed)
    assert report.backbone_share == 1
    loaded = other.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_every_parameter_receives_a_gradient(tiny_config, torchvision_engine):
    torch.manual_seed(0)
    model = torchvision_engine.build_model(tiny_config(torchvision_engine)).train()
    images = [torch.rand(3, 128, 160) * 255, torch.rand(3, 100, 128) * 255]
    boxes = torch.tensor([[10.0, 10.0, 40.0, 40.0], [30.0, 20.0, 110.0, 90.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([0, 4])}] * 2
    sum(model(images, targets).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@torch.no_grad()
def test_synchronised_batch_norm_keeps_what_attention_needs(tiny_config, torchvision_engine):
    cfg = tiny_config(torchvision_engine, "MODEL.ATTENTION.GATE", "se")
    alone = torchvision_engine.build_model(cfg).eval()
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.DEVICE = "SyncBN", "cuda"  # built on the CPU all the same
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    synchronised = torchvision_engine.build_model(cfg).eval()
    synchronised.load_state_dict(alone.state_dict(), strict=False)
    kinds = {type(m) for m in synchronised.backbone.body.modules()}
    assert torch.nn.SyncBatchNorm in kinds and torch.nn.BatchNorm2d not in kinds
    images = torch.zeros(2, 3, 64, 96)
    images[0] = torch.randn(3, 64, 96)
    images[1, :, :50, :40] = torch.randn(3, 50, 40)
    expected = alone.backbone(images)
    torch.testing.assert_close(synchronised.backbone(images), expected, rtol=1e-5, atol=1e-5)
    # the last gate, closed, shows: its hook is there
    for parameter in synchronised.backbone.body.layer4[1].gate.parameters():
        parameter.fill_(-3.0)
    assert not torch.allclose(synchronised.backbone(images)["p5"], expected["p5"])


@pytest.mark.parametrize("freeze_at", [0, 1, 2])
def test_freezing(tiny_config, torchvision_engine, detectron2_engine, freeze_at):
    from detectron2.modeling import build_model

    overrides = ["MODEL.BACKBONE.FREEZE_AT", str(freeze_at)]
    ours = torchvision_engine.build_model(tiny_config(torchvision_engine, *overrides))
    theirs = build_model(tiny_config(detectron2_engine, *overrides))
    trained = {detectron2_name(name) for name, p in ours.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in theirs.named_parameters() if p.requires_grad}
    # weights that are no parameters are a frozen norm's: its statistics stay as well
    frozen = [
        {detectron2_name(name) for name, _ in model.named_buffers() if name.endswith("weight")}
        for model in (ours, theirs)
    ]
    assert frozen[0] == frozen[1] and bool(frozen[0]) == bool(freeze_at)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["SOLVER.WARMUP_METHOD", "constant"],
        ["SOLVER.WARMUP_ITERS", "0"],
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", "0.0001"],
        ["SOLVER.STEPS", "(30, 45, 900)", "SOLVER.GAMMA", "0.5"],
    ],
)
def test_learning_rates_are_detectron2s(
    tiny_config, torchvision_engine, detectron2_engine, overrides
):
    from detectron2.solver import build_lr_scheduler

    overrides = ["SOLVER.MAX_ITER", "50", "SOLVER.WARMUP_ITERS", "10", *overrides]
    multiplier = lr_multiplier(tiny_config(torchvision_engine, *overrides))
    cfg = tiny_config(detectron2_engine, *overrides)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = build_lr_scheduler(cfg, optimizer)
    for iteration in range(50):
        assert multiplier(iteration / 50) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("world_size", [1, 2, 8, 16])
def test_workers_scale_as_detectron2_scales_them(
    tiny_config, torchvision_engine, detectron2_engine, world_size
):
    from detectron2.engine import DefaultTrainer

    overrides = ["SOLVER.IMS_PER_BATCH", "16", "SOLVER.REFERENCE_WORLD_SIZE", "8",
                 "SOLVER.MAX_ITER", "90000", "SOLVER.STEPS", "(60000, 80000)",
                 "TEST.EVAL_PERIOD", "5000"]  # fmt: skip
    ours = tiny_config(torchvision_engine, *overrides)
    scale_workers(ours, world_size)
    theirs = DefaultTrainer.auto_scale_workers(
        tiny_config(detectron2_engine, *overrides), world_size
    )
    for key in ours.SOLVER:
        assert ours.SOLVER[key] == theirs.SOLVER[key], key
    assert ours.TEST.EVAL_PERIOD == theirs.TEST.EVAL_PERIOD


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (333, 500), (1, 7), (97, 2000), (64, 64)])
@pytest.mark.parametrize(("edge", "longest"), [(800, 1333), (600, 1000), (65, 10000)])
def test_sizes_are_resized_as_detectron2_does(size, edge, longest):
    transforms = pytest.importorskip(
        "detectron2.data.transforms", reason="detectron2 is not installed"
    )
    expected = transforms.ResizeShortestEdge.get_output_shape(*size, edge, longest)
    assert shortest_edge(*size, edge, longest) == tuple(max(1, n) for n in expected)


def test_a_copy_is_independent(tiny_config, torchvision_engine):
    model = torchvision_engine.build_model(tiny_config(torchvision_engine)).eval()
    images = [torch.rand(3, 64, 50) * 255, torch.rand(3, 40, 64) * 255]
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(copy.deepcopy(model)(images), expected, rtol=0, atol=0)
