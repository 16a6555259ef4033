"""Every configuration key at wrong values of every kind: one line, status 2, nothing written."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from aa_detection.config import ConfigError, configs_folder
from aa_detection.engines import ENGINES

from .config_values import Case, right_cases, wrong_cases

BASE = configs_folder() / "sample/aa_retinanet_R18.yaml"
ALL = wrong_cases()


# values that once ended in tracebacks, in a wrong line or nowhere
REPORTED = {
    "SEED": 2**32,
    "SOLVER.MAX_ITER": 2**70,
    "MODEL.FPN.OUT_CHANNELS": 10**7,
    "MODEL.RESNETS.NUM_GROUPS": 0,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 0,
    "SOLVER.BASE_LR": None,
    "DATASETS.TRAIN": [3],
    "MODEL.RETINANET.PRIOR_PROB": 0.0,
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.5, 0.4],
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": [0.0] * 4,
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": -1.0,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[0.0]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[-1.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 7.0,
    "SOLVER.WARMUP_FACTOR": -5.0,
    "MODEL.ATTENTION.AA.MIN_KEY_DEPTH_PER_HEAD": 10**9,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": -1,
    "MODEL.RETINANET.NMS_THRESH_TEST": 5.0,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": -1.0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 0.0,
    "SOLVER.IMS_PER_BATCH": 10**9,
    "INPUT.MIN_SIZE_TRAIN": [100000],
    "INPUT.SCALE_JITTER.SIZE": 10**7,
}


def one_of_each_key(cases: list[Case]) -> list[Case]:
    """A case of every other key, of another kind for each."""
    by_key: dict[str, list[Case]] = {}
    for case in cases:
        if case[0] not in REPORTED:
            by_key.setdefault(case[0], []).append(case)
    return [each[i % len(each)] for i, each in enumerate(by_key.values())]


def named(cases: list[Case]) -> list[Any]:
    return [
        pytest.param(engine, name, value, id=f"{engine}-{name}-{what}")
        for engine in ENGINES
        for name, what, value in cases
    ]


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("train_net").main


def require(engine: str) -> None:
    module = "detectron2" if engine == "detectron2" else "lightning"
    pytest.importorskip(module, reason=f"{module} is not installed")


@pytest.fixture
def refuse(main, tmp_path, capsys, monkeypatch) -> Callable[..., str]:
    """``refuse(engine, settings)``: train by them in an empty folder; the line that refuses it."""
    monkeypatch.chdir(tmp_path)

    def train(engine: str, settings: dict[str, Any]) -> str:
        require(engine)
        config = tmp_path / "my.yaml"
        tree: dict[str, Any] = {"_BASE_": str(BASE), "OUTPUT_DIR": str(tmp_path / "out")}
        for name, value in settings.items():
            *groups, last = name.split(".")
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = value
        config.write_text(yaml.safe_dump(tree, allow_unicode=True))
        before = config.stat().st_mtime_ns
        status = main(["--engine", engine, "--config-file", str(config)])
        err = capsys.readouterr().err
        assert status == 2, err
        assert err.startswith("train_net.py: ") and err.count("\n") == 1 and err.endswith("\n")
        assert len(err) < 1000 and err.removesuffix("\n").isprintable()
        assert list(tmp_path.rglob("*")) == [config] and config.stat().st_mtime_ns == before
        return err

    return train


def check(refuse: Callable[..., str], engine: str, name: str, value: Any) -> None:
    line = refuse(engine, {name: value})
    _, _, told = line.partition(f"{name}: got ")
    assert ", expected " in told, line


@pytest.mark.parametrize("engine, name, value", named(one_of_each_key(ALL)))
def test_a_wrong_value_of_each_key(engine, name, value, refuse):
    check(refuse, engine, name, value)


@pytest.mark.slow
@pytest.mark.parametrize("engine, name, value", named(ALL))
def test_every_wrong_value(engine, name, value, refuse):
    check(refuse, engine, name, value)


# the key that is named: settings that are sound one by one
RELATIONS = {
    "MODEL.PIXEL_MEAN": {"MODEL.PIXEL_MEAN": [1.5]},
    "MODEL.PIXEL_STD": {"MODEL.PIXEL_STD": [1.0, 1.0]},
    "INPUT.MIN_SIZE_TRAIN": {
        "INPUT.MIN_SIZE_TRAIN": [64],
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
    },
    "MODEL.RESNETS.RES2_OUT_CHANNELS": {"MODEL.RESNETS.RES2_OUT_CHANNELS": 128},
    "MODEL.RESNETS.WIDTH_PER_GROUP": {
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
        "MODEL.RESNETS.NORM": "GN",
        "MODEL.RESNETS.WIDTH_PER_GROUP": 33,
    },
    "MODEL.RESNETS.NUM_GROUPS": {"MODEL.RESNETS.NUM_GROUPS": 2},
    "MODEL.FPN.OUT_CHANNELS": {"MODEL.FPN.NORM": "GN", "MODEL.FPN.OUT_CHANNELS": 1},
    "MODEL.ANCHOR_GENERATOR.SIZES": {
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64, 96], [128], [256], [512]]
    },
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": {"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[1.0]] * 3},
    "MODEL.RETINANET.IOU_THRESHOLDS": {"MODEL.RETINANET.IOU_THRESHOLDS": [0.5]},
    "SOLVER.NESTEROV": {"SOLVER.NESTEROV": True, "SOLVER.MOMENTUM": 0.0},
    "SOLVER.BASE_LR_END": {
        "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
        "SOLVER.BASE_LR": 0.1,
        "SOLVER.BASE_LR_END": 1.0,
    },
    # memory
    "SOLVER.IMS_PER_BATCH": {
        "SOLVER.IMS_PER_BATCH": 65536,
        "INPUT.MIN_SIZE_TRAIN": [800],
        "INPUT.MAX_SIZE_TRAIN": 1333,
    },
    "MODEL.RETINANET.NUM_CLASSES": {"MODEL.RETINANET.NUM_CLASSES": 10**6},
    "MODEL.RETINANET.NUM_CONVS": {
        "MODEL.RETINANET.NUM_CONVS": 1000,
        "MODEL.FPN.OUT_CHANNELS": 1024,
    },
    "MODEL.ATTENTION.AA.MIN_KEY_DEPTH_PER_HEAD": {
        "MODEL.ATTENTION.AA.MIN_KEY_DEPTH_PER_HEAD": 1024,
        "MODEL.ATTENTION.AA.NUM_HEADS": 4096,
    },
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RELATIONS)
def test_values_that_do_not_go_together(engine, name, refuse):
    line = refuse(engine, RELATIONS[name])
    assert line.startswith(f"train_net.py: {name}: got ") and ", expected " in line


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", REPORTED)
def test_reported_values(engine, name, refuse):
    check(refuse, engine, name, REPORTED[name])


# not by itself: another key, the engine or the network decides, and has a test of its own
TOGETHER = {
    *RELATIONS,
    "MODEL.META_ARCHITECTURE",
    "MODEL.BACKBONE.NAME",
    "MODEL.RESNETS.DEPTH",
    "MODEL.RETINANET.IN_FEATURES",
    "MODEL.RETINANET.IOU_LABELS",
    "INPUT.FORMAT",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING",
}


def test_values_at_the_bounds(engine, engine_name, tmp_path):
    """They load, in as far as the engine honours them."""
    config = tmp_path / "my.yaml"
    seen = 0
    for name, what, value in right_cases():
        if name in TOGETHER:
            continue
        tree: Any = value
        for part in reversed(name.split(".")):
            tree = {part: tree}
        config.write_text(yaml.safe_dump({"_BASE_": str(BASE), **tree}))
        try:
            engine.load_config(str(config))
            seen += 1
        except ConfigError as error:
            assert f"{name}: got" in str(error) and "on the torchvision engine" in str(error), what
            assert engine_name == "torchvision"
    assert seen > 100
