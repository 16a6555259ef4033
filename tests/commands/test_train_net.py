"""The command line: what a user's mistakes print, and that they cost nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/sample/aa_retinanet_R18.yaml")


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("train_net").main


@pytest.fixture
def fail(engine_name, main, sample_root, tmp_path, capsys, monkeypatch):
    """Runs the command, which must fail with exit status 2, one line, and nothing written."""
    monkeypatch.chdir(tmp_path)

    def _fail(*words, config=CONFIG):
        before = sorted(tmp_path.rglob("*"))
        command = ["--config-file", str(config), "--engine", engine_name]
        # should it start to train after all, not for long
        options = [word for word in words if word.startswith("--")]
        keys = [word for word in words if not word.startswith("--")]
        assert main([*command, *options, "SOLVER.MAX_ITER", "1", *keys]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("train_net.py: ")
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return _fail


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["MODEL.ATTENTION.CONVV", "aa"], ["MODEL.ATTENTION.CONVV", "MODEL.ATTENTION.CONV"]),
        (["MODEL.ATTENTION.AA.NUM_HEADS", "0"], ["MODEL.ATTENTION.AA.NUM_HEADS", "from 1"]),
        (["MODEL.ATTENTION.AA.VALUE_RATIO", "1.5"], ["MODEL.ATTENTION.AA.VALUE_RATIO", "0 to 1"]),
        (["MODEL.ATTENTION.AA.VALUE_RATIO", "-1"], ["MODEL.ATTENTION.AA.VALUE_RATIO", "0 to 1"]),
        (["MODEL.ATTENTION.STAGES", "['res9']"], ["MODEL.ATTENTION.STAGES", "'res9'"]),
        (["MODEL.ATTENTION.CONV", "ab"], ["MODEL.ATTENTION.CONV", "'ab'"]),
        (["SOLVER.MAX_ITER"], ["KEY VALUE pairs"]),
        (["SOLVER.MAX_ITER", "many"], ["SOLVER.MAX_ITER"]),
        (["DATASETS.TRAIN", "('aa_sample_trian',)"], ["aa_sample_trian", "aa_sample_train"]),
        (["MODEL.RETINANET.NUM_CLASSES", "80"], ["80", "5"]),
        (["MODEL.RESNETS.NORM", "FrozenBN"], ["MODEL.RESNETS.NORM", "MODEL.WEIGHTS"]),
        (["MODEL.BACKBONE.FREEZE_AT", "2"], ["MODEL.BACKBONE.FREEZE_AT", "MODEL.WEIGHTS"]),
        (["--eval-only"], ["MODEL.WEIGHTS", "model_final.pth"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line(fail, words, parts):
    line = fail(*words)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["config.yaml", "no such file"]),
        (b"MODEL: [unclosed\nSOLVER: {}", ["config.yaml", "line 2", "not a YAML file"]),
        (b"\x80\x81\xff", ["config.yaml", "not a YAML file"]),
        (b"- a\n- b", ["config.yaml", "list"]),
        (b"_BASE_: config.yaml", ["config.yaml", "back to itself"]),
        (b"MODEL: {WEIGHTS: !!python/object/apply:os.getcwd []}", ["config.yaml", "python"]),
    ],
    ids=["missing", "syntax", "binary", "list", "cycle", "python tag"],
)
def test_a_wrong_config_file(fail, tmp_path, content, parts):
    path = tmp_path / "my config.yaml"
    if content is not None:
        path.write_bytes(content.replace(b"_BASE_: config", b"_BASE_: my config"))
    line = fail(config=path)
    assert all(part in line for part in parts), line


def break_missing_json(folder):
    (folder / "annotations/train.json").unlink()
    return "train.json"


def break_missing_image(folder):
    image = next((folder / "train").iterdir())
    image.unlink()
    return image.name


def break_category(folder):
    path = folder / "annotations/train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 99
    path.write_text(json.dumps(content))
    return "99"


@pytest.mark.parametrize("damage", [break_missing_json, break_missing_image, break_category])
def test_a_broken_dataset(fail, sample_root, tmp_path, monkeypatch, damage):
    root = tmp_path / "broken data"
    shutil.copytree(sample_root, root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    named = damage(root / "aa_sample")
    assert named in fail()


def test_own_data(engine_name, main, load_tool, sample_root, tmp_path, monkeypatch, capsys):
    """Trained on files of the command line, evaluated and used by its config alone."""
    monkeypatch.chdir(sample_root / "aa_sample")
    data = []
    for split in ("train", "val"):
        data += [f"--{split}-json", f"annotations/{split}.json", f"--{split}-images", split]
    output = tmp_path / "out"
    tiny = ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0",
            "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu",
            "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"]  # fmt: skip
    command = ["--config-file", CONFIG, "--engine", engine_name, *data, "OUTPUT_DIR", str(output)]
    assert main([*command, *tiny]) == 0
    results = output / "inference/coco_instances_results.json"
    expected = results.read_text()
    results.unlink()

    # as in another process, from another folder
    monkeypatch.setattr("aa_detection.data.catalog._registered", {})
    monkeypatch.chdir(tmp_path)
    config = ["--engine", engine_name, "--config-file", str(output / "config.yaml")]
    assert main([*config, "--eval-only"]) == 0
    assert results.read_text() == expected
    if engine_name == "torchvision":
        assert "at iteration 1\n" in (output / "log.txt").read_text()
    photos = ["--input", str(sample_root / "aa_sample/val"), "--output", str(tmp_path / "found")]
    assert load_tool("predict").main([*config, *photos]) == 0
    found = json.loads((tmp_path / "found/detections.json").read_text())
    assert [c["name"] for c in found["categories"]][0] == "circle"
    monkeypatch.setattr("aa_detection.data.catalog._registered", {})
    page = tmp_path / "page.html"
    command = [str(output), "--engine", engine_name, "--output", str(page)]
    assert load_tool("report").main(command) == 0 and page.exists()


def test_json_and_images_go_together(main, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--config-file", CONFIG, "--train-json", "a.json"])
    assert exit_info.value.code == 2
    assert "--train-json and --train-images go together" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["detectron2", "lightning"])
def test_an_engine_that_is_not_installed(missing, tmp_path):
    engine = "detectron2" if missing == "detectron2" else "torchvision"
    code = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n, *a: None if n == {missing!r} else find(n, *a)\n"
        f"sys.argv = ['train_net.py', '--config-file', {CONFIG!r}, '--engine', {engine!r}]\n"
        f"runpy.run_path({str(ROOT / 'tools/train_net.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "is not installed" in done.stderr and "Traceback" not in done.stderr
