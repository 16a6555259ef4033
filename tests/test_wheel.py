"""The wheel: what is in it, and that it trains by a config's name in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from aa_detection.attention import native

ROOT = Path(__file__).resolve().parents[1]
# two steps of a small detector
TINY = [
    "SOLVER.MAX_ITER", "2",
    "SOLVER.IMS_PER_BATCH", "2",
    "MODEL.DEVICE", "cpu",
    "DATALOADER.NUM_WORKERS", "0",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64",
]  # fmt: skip


def run(*command, cwd, **environment):
    environment = {**os.environ, **environment}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources by the setuptools that is installed: without a network."""
    source = tmp_path_factory.mktemp("a source")
    for name in ("aa_detection", "configs"):
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    run(sys.executable, "-c", code, cwd=source)
    (file,) = (source / "dist").iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder for PYTHONPATH with nothing in it but the wheel, which is unpacked as it is."""
    folder = tmp_path_factory.mktemp("site packages")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    return folder


def test_everything_is_in_it(wheel):
    expected = set()
    for name in ("aa_detection", "configs"):
        inside = "aa_detection" if name == "aa_detection" else f"aa_detection/{name}"
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so":
                expected.add(f"{inside}/{path.relative_to(ROOT / name).as_posix()}")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        (points,) = [name for name in names if name.endswith("/entry_points.txt")]
        assert "aa-detection = aa_detection.__main__:main" in content.read(points).decode()
    library = f"aa_detection/attention/{native.FILE.name}"
    assert {name for name in names if ".dist-info/" not in name} - {library} == expected
    if native.absent is None:  # here is a compiler
        assert library in names
    assert "-py3-none-" in wheel.name and not wheel.name.endswith("-any.whl")
    assert "aa_detection/py.typed" in expected
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_trains_by_name_in_an_empty_folder(installed, tmp_path):
    pytest.importorskip("lightning", reason="Lightning is not installed")
    here = tmp_path / "an empty folder"
    here.mkdir()
    place = {"PYTHONPATH": str(installed), "DETECTRON2_DATASETS": ""}
    # the script that pip makes of an entry point
    script = tmp_path / "bin/aa-detection"
    script.parent.mkdir()
    (found,) = metadata.distributions(path=[str(installed)])
    (entry,) = found.entry_points
    script.write_text(
        f"import sys\nfrom {entry.module} import {entry.attr}\n"
        f"if __name__ == '__main__':\n    sys.exit({entry.attr}())\n"
    )
    command = [sys.executable, script]
    run(*command, "draw-dataset", "sample", "--num-train", "4", "--num-val", "2", cwd=here, **place)
    options = ["--engine", "torchvision", "--config-file", "sample/aa_retinanet_R18.yaml"]
    run(*command, "train", *options, *TINY, cwd=here, **place)
    written = {path.relative_to(here).parts[0] for path in here.rglob("*")}
    output = here / "output/sample/aa_retinanet_R18"
    assert written == {"datasets", "output"}
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in row for row in rows)
    assert (output / "model_final.pth").exists()
    assert not list(installed.rglob("*.json"))
