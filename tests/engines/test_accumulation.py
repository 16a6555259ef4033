"""``SOLVER.GRAD_ACCUM_STEPS`` on either engine: parts of a batch train as the whole does."""

import json
import os
import signal

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from aa_detection.training.interrupt import Interrupted

BATCH = 4
# norms that see one image at a time, images of one size, and losses of a size to tell apart
KEYS = [
    "MODEL.RESNETS.NORM", "GN",
    "SOLVER.IMS_PER_BATCH", str(BATCH),
    "SOLVER.BASE_LR", "0.01",
    "SOLVER.MAX_ITER", "3",
    "SOLVER.STEPS", "(2,)",
    "DATASETS.TEST", "()",
    "SEED", "1",
]  # fmt: skip


@pytest.fixture
def float64(engine, monkeypatch):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    if "detectron2" in engine.__name__:  # whose focal loss is fvcore's, in float32
        from detectron2.modeling.meta_arch import retinanet

        monkeypatch.setattr(retinanet, "sigmoid_focal_loss_jit", sigmoid_focal_loss)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def train(engine, run, datasets, tmp_path, float64):
    """``train(parts, …)``: weights and last loss of a run in so many parts a batch."""

    def _train(parts, *overrides, folder=None, **how):
        output = tmp_path / (folder or str(parts))
        keys = [*KEYS, "DATASETS.TRAIN", f"('{datasets[7]}',)", *overrides]
        run(engine, output, *keys, "SOLVER.GRAD_ACCUM_STEPS", str(parts), **how)
        weights = torch.load(output / "model_final.pth", weights_only=True)["model"]
        rows = [json.loads(line) for line in (output / "metrics.json").open()]
        return weights, rows[-1]

    return _train


LOSSES = ("total_loss", "loss_cls", "loss_box_reg")


def test_parts_of_a_batch_train_as_the_whole(engine, train, monkeypatch):
    whole, row = train(1)
    kernel = "backbone.bottom_up.res5.0.conv2.weight"
    assert whole[kernel].dtype == torch.float64
    for parts in (2, BATCH):
        weights, losses = train(parts)
        torch.testing.assert_close(weights, whole, rtol=1e-10, atol=1e-12)
        assert losses["iteration"] == row["iteration"] == 2
        for name in LOSSES:
            assert losses[name] == pytest.approx(row[name], rel=1e-10)
    # a part that is divided by an average of its own would not
    if "detectron2" in engine.__name__:
        from aa_detection.engines.detectron2.accumulation import HeldNormalizer

        monkeypatch.setattr(
            HeldNormalizer,
            "__call__",
            lambda self, *how: type(self.network)._ema_update(self.network, *how),
        )
    else:
        from aa_detection.engines.torchvision.head import Head

        compute, moved = Head.compute_loss, Head.close_batch

        def compute_loss(self, *args):
            factor = moved(self)
            return {name: loss * factor for name, loss in compute(self, *args).items()}

        monkeypatch.setattr(Head, "compute_loss", compute_loss)
        monkeypatch.setattr(Head, "close_batch", lambda self: torch.ones(()))
    naive, _ = train(2, folder="naive")
    assert (naive[kernel] - whole[kernel]).abs().max() > 1e-6


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 2)])
def test_a_run_goes_on_in_other_parts(engine, train, at_step, before, after):
    """As after "out of memory", which names the key."""
    whole, row = train(1)
    at_step(engine, before + 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(before, folder="other")
    weights, losses = train(after, folder="other", resume=True)
    torch.testing.assert_close(weights, whole, rtol=1e-10, atol=1e-12)
    assert losses["iteration"] == row["iteration"]
