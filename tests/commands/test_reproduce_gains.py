"""The controlled experiment at toy scale: two arms, one seed, two steps; then again."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from aa_detection.data.synthetic.context import BOARD_WIDTH, DISCS_FROM, HEIGHT, WIDTH
from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.engines.torchvision.config import load_config
from aa_detection.engines.torchvision.model import build_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(load_tool, monkeypatch):
    tool = load_tool("reproduce_gains")
    small = {
        name: dataclasses.replace(experiment, num_train=4, num_val=3)
        for name, experiment in tool.EXPERIMENTS.items()
    }
    monkeypatch.setattr(tool, "EXPERIMENTS", small)
    return tool


@pytest.fixture
def run(tool, tmp_path, capsys):
    def _run(*words, steps="2"):
        folders = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
        keys = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", steps, "SOLVER.STEPS", "()"]
        keys += ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.WARMUP_ITERS", "0"]
        arms = ["--engine", "torchvision", "--datasets", "context", "--arms", "plain,aa"]
        status = tool.main([*folders, *arms, "--seeds", "1", *words, *keys])
        return status, *capsys.readouterr()

    return _run


def test_end_to_end_and_again(run, tmp_path):
    status, printed, _ = run("--jobs", "2")
    assert status == 0
    assert printed.startswith("0 of 2 runs are complete")
    table = (tmp_path / "records/table.md").read_text()
    assert table in printed
    rows = [line for line in table.splitlines() if line.startswith(("| plain |", "| aa |"))]
    assert [row.split(" | ")[1] for row in rows] == ["1", "1"]
    records = {path.stem: json.loads(path.read_text()) for path in tmp_path.rglob("*-seed1.json")}
    assert set(records) == {"plain-seed1", "aa-seed1"}
    settings = [records[name]["settings"] for name in ("plain-seed1", "aa-seed1")]
    assert {key for key in settings[1] if settings[0].get(key) != settings[1][key]} == {
        "MODEL.ATTENTION.CONV"
    }

    # the same command again finds everything; a lost record is made anew from the checkpoint
    status, printed, _ = run()
    assert status == 0 and "2 of 2 runs are complete" in printed and "starts" not in printed
    (tmp_path / "records/context/aa-seed1.json").unlink()
    status, printed, _ = run()
    assert status == 0 and "context/plain-seed1: starts" not in printed
    again = json.loads((tmp_path / "records/context/aa-seed1.json").read_text())
    assert again["resumed"] is True
    assert again["metrics"] == records["aa-seed1"]["metrics"]

    status, _, error = run(steps="3")
    assert status == 2
    assert error.startswith("reproduce_gains.py: ") and error.count("\n") == 1
    assert "SOLVER.MAX_ITER" in error


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sample_dataset(tmp_path_factory.mktemp("my data"), num_train=4, num_val=3)


@pytest.fixture
def own(tool, data, tmp_path, capsys):
    """The command on a dataset of the user's; an option that is None is left out."""

    def _own(*words, keys=(), **changed):
        options = {"--config-file": ROOT / "configs/sample/aa_retinanet_R18.yaml"}
        for split in ("train", "val"):
            options[f"--{split}-json"] = data / f"annotations/{split}.json"
            options[f"--{split}-images"] = data / split
        options |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
        line = [str(w) for pair in options.items() if pair[1] is not None for w in pair]
        line += ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
        line += ["--engine", "torchvision", "--seeds", "1", *words, "MODEL.DEVICE", "cpu"]
        line += ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"]
        line += ["SOLVER.WARMUP_ITERS", "0", "DATALOADER.NUM_WORKERS", "0", *keys]
        try:
            status = tool.main(line)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return _own


def test_own_data(own, data, tmp_path):
    status, printed, _ = own()
    assert status == 0
    folder = tmp_path / "records/aa_retinanet_R18"
    records = {path.name: json.loads(path.read_text()) for path in folder.glob("*-seed1.json")}
    plain, aa = records["plain-seed1.json"], records["aa-seed1.json"]
    add = records["add-seed1.json"]
    # the config is an attentive one's: the plain arm says that it is none
    assert plain["settings"]["MODEL.ATTENTION.CONV"] == ""
    assert aa["settings"]["MODEL.ATTENTION.CONV"] == "aa"
    assert add["settings"]["MODEL.ATTENTION.AA.MERGE"] == "add"
    assert plain["data"] == aa["data"] and set(plain["data"]) == {"train", "val"}
    assert str(tmp_path) not in json.dumps(records)
    table = (folder / "table.md").read_text()
    assert table in printed and "aa and plain" in table

    status, printed, _ = own()
    assert status == 0 and "3 of 3 runs are complete" in printed

    # other images under the same name are another experiment
    changed = tmp_path / "train.json"
    content = json.loads((data / "annotations/train.json").read_text())
    content["annotations"].pop()
    changed.write_text(json.dumps(content))
    status, _, error = own(train_json=changed)
    assert status == 2 and error.count("\n") == 1
    assert "plain-seed1.json: this run had another train" in error


@pytest.mark.parametrize(
    ("changed", "keys", "message"),
    [
        ({"val_images": None}, (), "your own data needs --val-images, too"),
        ({"config_file": None}, (), "your own data needs --config-file, too"),
        ({"datasets": "sample"}, (), "--datasets are the project's own"),
        ({"train_json": "no.json"}, (), "no.json"),
        ({"val_images": "nowhere"}, (), "nowhere"),
        ({}, ("MODEL.RETINANET.NUM_CLASSES", "4"), "MODEL.RETINANET.NUM_CLASSES"),
        ({}, ("MODEL.WEIGHTS", "no.pth"), "MODEL.WEIGHTS no.pth: No such file or directory"),
        ({}, ("SOLVER.STEP", "1"), "SOLVER.STEP"),
    ],
)
def test_own_data_that_cannot_be_used(own, tmp_path, changed, keys, message):
    status, _, error = own(keys=keys, **changed)
    assert status == 2
    last = error.splitlines()[-1]
    assert last.startswith("reproduce_gains.py: ") and message in last
    assert not [*tmp_path.iterdir()]


def test_a_name_that_is_none(tool, capsys):
    with pytest.raises(SystemExit) as end:
        tool.main(["--arms", "plain,ab"])
    assert end.value.code == 2
    assert "'ab' is none of plain, aa, add, se, aw, plain-mask-batch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--jobs", "0", "must be a whole number of at least 1, got '0'"),
        ("--jobs", "two", "must be a whole number of at least 1, got 'two'"),
        ("--seeds", "1,", "expected different whole numbers with commas between them, got '1,'"),
        # two runs in one folder
        ("--seeds", "1,2,1", "expected different whole numbers with commas between them, got"),
        # detectron2's word for another seed each time
        ("--seeds", "-1", "expected different whole numbers with commas between them, got '-1'"),
    ],
)
@pytest.mark.parametrize("command", [["reproduce_gains"], ["sweep_ratio", "train"]])
def test_options_of_runs(load_tool, capsys, command, option, value, message):
    name, *words = command
    with pytest.raises(SystemExit) as end:
        load_tool(name).main([*words, f"{option}={value}"])
    assert end.value.code == 2
    assert f"argument {option}: {message}" in capsys.readouterr().err


def test_the_arms_are_twins(tool):
    """Whatever an arm is, it says so in MODEL.ATTENTION and nowhere else."""
    for experiment in tool.EXPERIMENTS.values():
        configs = {}
        for arm in tool.ARMS:
            run = experiment.run(arm, 1, [], Path("datasets"))
            cfg = load_config(str(run.config_file), run.overrides)
            assert cfg.SEED == 1
            configs[arm] = dict(cfg.MODEL.ATTENTION), cfg
            cfg.MODEL.pop("ATTENTION")
        attention = {
            arm: (keys["CONV"], keys["GATE"], keys["AA"]["MERGE"], keys["AA"]["MASK_PADDING"])
            for arm, (keys, _) in configs.items()
        }
        assert attention == {
            "plain": ("", "", "concat", "auto"),
            "aa": ("aa", "", "concat", "auto"),
            "add": ("aa", "", "add", "auto"),
            "se": ("", "se", "concat", "auto"),
            "aw": ("aw", "", "concat", "auto"),
            "plain-mask-batch": ("", "", "concat", "batch"),
            "plain-mask-all": ("", "", "concat", "all"),
            "aa-mask-none": ("aa", "", "concat", "none"),
            "aa-mask-batch": ("aa", "", "concat", "batch"),
            "aa-mask-all": ("aa", "", "concat", "all"),
        }
        for _, cfg in configs.values():
            assert cfg == configs["plain"][1]


def test_the_records_of_docs_gains_are_still_of_this_protocol(load_tool, tmp_path):
    records = ROOT / "docs/gains"
    if not records.exists():
        pytest.skip("the records are in a checkout")
    tool = load_tool("reproduce_gains")
    runs = tool.Runs(tool.TRAIN, "torchvision", records, tmp_path)
    for experiment in tool.EXPERIMENTS.values():
        for arm in tool.DRAWN_ARMS:
            for seed in tool.SEEDS:
                assert runs.record(experiment.run(arm, seed, [], tmp_path)) is not None


@pytest.mark.parametrize(("arm", "sees"), [("plain", False), ("aa", True), ("se", True)])
def test_what_a_twin_sees_of_the_boards(tool, arm, sees):
    """From the places on P3 that stand for discs, only attention has a path to the boards."""
    experiment = tool.EXPERIMENTS["context"]
    run = experiment.run(arm, 1, ["MODEL.DEVICE", "cpu"], Path("datasets"))
    torch.manual_seed(0)
    model = build_model(load_config(str(run.config_file), run.overrides)).eval()
    pixels = torch.randn(1, 3, HEIGHT, WIDTH, requires_grad=True)
    p3 = next(iter(model.backbone(pixels).values()))
    logits = model.head.cls_score(model.head.cls_subnet(p3))
    (gradient,) = torch.autograd.grad(logits[..., DISCS_FROM // 8 :].abs().sum(), pixels)
    assert bool(gradient[..., :BOARD_WIDTH].any()) == sees
