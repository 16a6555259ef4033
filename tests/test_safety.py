"""Nothing that a user downloads can touch a file: through the tools' own entry points."""

import ast
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs/sample/aa_retinanet_R18.yaml")


class Make:
    """Makes a folder when it is unpickled as Python unpickles."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(
    params=[("train_net", "detectron2"), ("train_net", "torchvision"), ("analyze_model", None)],
    ids=lambda param: " ".join(filter(None, param)),
)
def refuse(request, load_tool, tmp_path, monkeypatch, capsys):
    """Runs a tool on a config file; it must end in 2 with one line, nothing being made."""
    name, engine = request.param
    if engine:
        pytest.importorskip(
            {"detectron2": "detectron2", "torchvision": "lightning"}[engine],
            reason=f"{engine}'s engine is not installed",
        )
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def _refuse(config, *words):
        before = sorted(tmp_path.rglob("*"))
        command = ["--config-file", str(config), *(["--engine", engine] if engine else [])]
        assert load_tool(name).main([*command, *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith(f"{name}.py: "), lines
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return _refuse


YAML = {
    "apply": "OUTPUT_DIR: !!python/object/apply:os.mkdir ['{made}']\n",
    "new": "OUTPUT_DIR: !!python/object/new:os.mkdir ['{made}']\n",
    "eval": (
        "SOLVER: {{MAX_ITER: !!python/object/apply:eval "
        "[\"__import__('os').mkdir('{made}')\"]}}\n"
    ),
    "module": "OUTPUT_DIR: !!python/module:evil\n",
    "name": "OUTPUT_DIR: !!python/name:evil.make\n",
    "detectron2's own anchors": (
        "MODEL: {{ANCHOR_GENERATOR: {{SIZES: !!python/object/apply:eval "
        "[\"__import__('os').mkdir('{made}') or [[32]]\"]}}}}\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
@pytest.mark.parametrize("through_a_base", [False, True])
def test_no_yaml_touches_a_file(refuse, tmp_path, text, through_a_base):
    (tmp_path / "work/evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n")
    config = tmp_path / "config.yaml"
    config.write_text(text.format(made=tmp_path / "made"))
    if through_a_base:
        config = tmp_path / "top.yaml"
        config.write_text("_BASE_: config.yaml\n")
    assert "config.yaml: line 1" in refuse(config)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "value",
    ["__import__('os').mkdir('{made}')", "!!python/object/apply:os.mkdir ['{made}']",
     "[os.mkdir('{made}') for os in [__import__('os')]]"],
)  # fmt: skip
def test_no_value_of_the_command_line_is_evaluated(refuse, tmp_path, value):
    value = value.format(made=tmp_path / "made")
    line = refuse(CONFIG, "SOLVER.MAX_ITER", value)
    assert "SOLVER.MAX_ITER" in line
    assert not (tmp_path / "made").exists()


def evil_pth(folder):
    path = folder / "evil.pth"
    torch.save({"model": {"a": torch.ones(2), "b": Make(folder / "made")}}, path)
    return path


def evil_old_pth(folder):
    path = folder / "old.pth"
    torch.save({"a": Make(folder / "made")}, path, _use_new_zipfile_serialization=False)
    return path


def evil_pkl(folder):
    path = folder / "R-50.pkl"
    content = {"model": {"a": np.ones(2), "b": Make(folder / "made")}, "__author__": "torchvision"}
    path.write_bytes(pickle.dumps(content))
    return path


def evil_pkl_named_pth(folder):
    return evil_pkl(folder).rename(folder / "R-50.pth")


def evil_pkl_named_safetensors(folder):
    return evil_pkl(folder).rename(folder / "R-50.safetensors")


EVIL_WEIGHTS = [
    (evil_pth, [], "asks for posix.mkdir"),
    (evil_pth, ["--allow-pickle"], "asks for posix.mkdir"),
    (evil_old_pth, [], "asks for posix.mkdir"),
    (evil_pkl, [], "a pickle, which could run code when it is read"),
    (evil_pkl, ["--allow-pickle"], "asks for posix.mkdir"),
    (evil_pkl_named_pth, ["--allow-pickle"], "not a file of tensors"),
    (evil_pkl_named_safetensors, ["--allow-pickle"], "not a safetensors file"),
]


@pytest.mark.parametrize(("make", "flags", "message"), EVIL_WEIGHTS)
@pytest.mark.parametrize("mode", [[], ["--eval-only"]], ids=["train", "eval"])
@pytest.mark.parametrize("engine", ["detectron2", "torchvision"])
def test_no_weights_touch_a_file(
    engine, mode, make, flags, message, load_tool, tmp_path, monkeypatch, capsys
):
    pytest.importorskip({"detectron2": "detectron2", "torchvision": "lightning"}[engine])
    path = make(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    command = ["--config-file", CONFIG, "--engine", engine, *mode, *flags]
    assert load_tool("train_net").main([*command, "MODEL.WEIGHTS", str(path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"train_net.py: MODEL.WEIGHTS {path}: ")
    assert message in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("make", "flags", "message"), EVIL_WEIGHTS)
def test_no_weights_touch_a_file_when_converted(make, flags, message, load_tool, tmp_path, capsys):
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert load_tool("convert_weights").main([str(path), str(tmp_path / "out.pth"), *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"convert_weights.py: {path}: ")
    assert message in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_they_would_touch_one(tmp_path):
    """Read as Python and torch read them with their guards off."""
    (tmp_path / "made").mkdir()
    with pytest.raises(FileExistsError):
        torch.load(evil_pth(tmp_path), weights_only=False)
    with pytest.raises(FileExistsError):
        pickle.loads(evil_pkl(tmp_path).read_bytes())


def calls(file):
    """``(line, dotted name, keywords)`` of every call in a Python file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), {k.arg: k.value for k in node.keywords}


CONFIG_LOADER = ROOT / "aa_detection/config/loading.py"  # below
# reads what its own child processes wrote into a folder of theirs
OWN_PICKLES = ROOT / "aa_detection/engines/launch.py"
# runs the program that the user names, which is what it is for
PROGRAM_RUNNER = ROOT / "aa_detection/d2.py"
SOURCES = sorted((ROOT / "aa_detection").rglob("*.py"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_reader_that_runs_what_it_reads(file):
    for line, name, keywords in calls(file):
        where = f"{file}:{line}: {name}"
        if file != PROGRAM_RUNNER:
            assert name not in ("eval", "exec", "compile", "__import__"), where
        if file != OWN_PICKLES:
            assert name not in ("pickle.load", "pickle.loads"), where
        assert name not in ("yaml.unsafe_load", "yaml.full_load"), where
        assert name != "yaml.load" or file == CONFIG_LOADER, where
        assert name not in ("torch.jit.load", "joblib.load", "os.system"), where
        if name == "torch.load":
            value = keywords.get("weights_only")
            assert isinstance(value, ast.Constant) and value.value is True, where
        if name in ("np.load", "numpy.load"):
            value = keywords.get("allow_pickle")
            assert value is None or value.value is False, where


def test_the_loader_of_configs_is_yamls_safe_one():
    from aa_detection.config.loading import _Loader

    assert issubclass(_Loader, yaml.SafeLoader)
    assert not any(tag and "python" in tag for tag in _Loader.yaml_constructors)
    assert _Loader.yaml_multi_constructors == {}
