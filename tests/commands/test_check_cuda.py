"""The check of a GPU: the whole program on the CPU at toy sizes, and where there is no GPU."""

import json

import pytest
import torch

from aa_detection.studies.benchmarks import detector
from aa_detection.studies.gpu import correctness
from aa_detection.studies.gpu.check import check
from aa_detection.studies.gpu.plan import Plan
from aa_detection.studies.gpu.section import Clock

TOY = Plan(
    checked_maps=((4, 5), (6, 7)),
    timed_maps=((4, 5),),
    dtypes=(torch.float32, torch.bfloat16),
    batches=(2,),
    images=((64, 96),),
    recipe_batch=1,
    recipe_image=(64, 64),
    training=(
        # on maps of one pixel PyTorch's bfloat16 convolutions on the CPU are NaN every other time
        *("INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MAX_SIZE_TRAIN", "192"),
        *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"),
        *("DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"),
        *("SOLVER.BASE_LR", "0.001"),
    ),
    dataset=(4, 2),
    iterations=2,
    engine="torchvision",
    seconds=3600,
    case_seconds=0.0,
)
SECTIONS = ("correctness", "operator", "detectors", "training")


def test_without_a_gpu_it_says_so_in_one_line(load_tool, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    output = tmp_path / "out"
    assert load_tool("check_cuda").main(["--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        "check_cuda.py: this needs an NVIDIA GPU, and PyTorch finds none here\n"
    )
    assert not output.exists()


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The whole program on the CPU: whether all is right, its folder, and what it said."""
    pytest.importorskip("lightning", reason="Lightning is not installed")
    small = {"RetinaNet-R50": "retinanet_R18", "AA-RetinaNet-R50": "aa_retinanet_R18"}
    configs = {name: f"sample/{config}.yaml" for name, config in small.items()}
    said = []
    folder = tmp_path_factory.mktemp("a folder") / "cuda"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correctness, "DENSE_TOKENS", 20)
        patch.setattr(detector, "CONFIGS", configs)
        patch.setattr("aa_detection.studies.gpu.detectors.CONFIGS", configs)
        right = check(folder, "cpu", TOY, said.append)
    return right, folder, said


def test_it_leaves_a_folder_of_json_and_text(checked):
    _, folder, said = checked
    names = {f"{name}.{kind}" for name in (*SECTIONS, "summary") for kind in ("json", "txt")}
    assert {path.name for path in folder.iterdir()} == names
    for name in SECTIONS:
        section = json.loads((folder / f"{name}.json").read_text())
        assert section["rows"] and section["checks"] and not section["left_out"]
        assert section["machine"]["torch"] == torch.__version__
    assert (folder / "summary.txt").read_text().startswith("device CPU, torch ")
    assert said[-1] in (folder / "summary.txt").read_text()


def test_what_cannot_run_here_is_the_only_thing_wrong(checked):
    """That is "fused", on a CPU."""
    right, folder, _ = checked
    summary = json.loads((folder / "summary.json").read_text())
    failures = [x for section in summary["sections"].values() for x in section["failures"]]
    assert not right and failures
    assert all("fused" in x and "it runs on NVIDIA GPUs" in x for x in failures)


def test_correctness_measures_every_backend_and_padding(checked):
    _, folder, _ = checked
    rows = json.loads((folder / "correctness.json").read_text())["rows"]
    assert {row["name"] for row in rows} == {"dense", "blocked", "folded", "fused", "auto"}
    assert {(row["padded"], row["dtype"]) for row in rows} == {
        (padded, dtype) for padded in (True, False) for dtype in ("float32", "bfloat16")
    }
    errors = [x for row in rows for x in row.get("errors", {}).values()]
    assert len(errors) == 6 * sum("errors" in row for row in rows)
    assert 0 < max(errors) < 2**-4


def test_the_operator_and_detectors_are_timed(checked):
    _, folder, _ = checked
    for name, slower in (("operator", "dense"), ("detectors", "AA-RetinaNet-R50")):
        rows = json.loads((folder / f"{name}.json").read_text())["rows"]
        timed = [row for row in rows if row["name"] == slower]
        assert timed and all(row["forward_backward_ms"] > 0 for row in timed)
        assert slower in (folder / f"{name}.txt").read_text()
    bars = json.loads((folder / "summary.json").read_text())["bars"]
    assert [bar["found"] for bar in bars[:3]] == [None] * 3  # fused did not run
    assert all(bar["found"] > 0 for bar in bars if "step over" in bar["what"])


def test_the_trainings_end_resume_and_form_a_group(checked):
    _, folder, _ = checked
    rows = json.loads((folder / "training.json").read_text())["rows"]
    found = {row["name"]: row.get("last_iteration") for row in rows[1:]}
    assert found == {"AMP": 1, "AMP, resumed": 3, "SyncBN, torchrun of 1": 1}
    assert "--resume" in rows[2]["command"]


def test_a_wrong_backend_is_found(monkeypatch):
    """What says that everything is right has to be able to say that it is not."""
    attention = correctness.relative_attention_2d

    def wrong(*inputs, backend, **others):
        out = attention(*inputs, backend=backend, **others)
        return out * 1.01 if backend == "blocked" else out

    monkeypatch.setattr(correctness, "relative_attention_2d", wrong)
    plan = Plan(checked_maps=((3, 4),), dtypes=(torch.float32,))
    failures = correctness.correctness(plan, "cpu", Clock(60)).failures
    assert {x.partition(",")[0] for x in failures} == {"blocked", "fused"}
    assert "blocked, 3x4 float32, padded: " in failures[0]


def test_what_there_is_no_time_for_is_named(tmp_path):
    section = correctness.correctness(TOY, "cpu", Clock(0))
    assert not section.rows and len(section.left_out) == 8
    assert section.left_out[0] == "correctness: 4x5 float32, padded"
