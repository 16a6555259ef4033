import functools
from pathlib import Path

import pytest

from aa_detection.engines import RunOptions

ROOT = Path(__file__).resolve().parents[2]
AA_CONFIG = str(ROOT / "configs/sample/aa_retinanet_R18.yaml")

# the sample's detector, shrunk until four iterations take a second
TINY = [
    "MODEL.FPN.OUT_CHANNELS", "64",
    "MODEL.RETINANET.NUM_CONVS", "1",
    "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0",
    "TEST.DETECTIONS_PER_IMAGE", "20",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MAX_SIZE_TRAIN", "96",
    "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TEST", "96",
    "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.MAX_ITER", "4",
    "SOLVER.STEPS", "(3,)",
    "SOLVER.WARMUP_ITERS", "2",
    "SOLVER.CHECKPOINT_PERIOD", "100",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _in_sample_root(sample_root):
    """Every test here may name the sample dataset."""


@pytest.fixture
def run():
    """``run(engine, output_dir, *overrides, **how)``: train the tiny detector, return metrics."""

    def _run(engine, output_dir, *overrides, config=AA_CONFIG, **how):
        cfg = engine.load_config(config, [*TINY, "OUTPUT_DIR", str(output_dir), *overrides])
        return engine.run(cfg, RunOptions(**how))

    return _run


@pytest.fixture(scope="session")
def trained(sample_dataset, tmp_path_factory):
    """``trained(engine)``: folder and metrics of a run of the tiny detector, not to be changed."""

    @functools.cache
    def _trained(engine):
        output = tmp_path_factory.mktemp("trained") / "a run"
        cfg = engine.load_config(AA_CONFIG, [*TINY, "OUTPUT_DIR", str(output)])
        return output, engine.run(cfg)

    return _trained


@pytest.fixture
def tiny_config():
    def _config(engine, *overrides, config=AA_CONFIG):
        return engine.load_config(config, [*TINY, *overrides])

    return _config
