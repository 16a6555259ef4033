"""``aa-detection env``: what a bug report is asked for."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import aa_detection
from aa_detection.attention import BACKENDS, functional, native
from aa_detection.commands import COMMANDS
from aa_detection.engines import ENGINES, environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def printed(load_tool, capsys):
    """``printed()``: what the command prints, by section and name."""

    def _printed():
        assert load_tool("env").main([]) == 0
        sections = {}
        for block in capsys.readouterr().out.split("\n\n"):
            title, *lines = block.strip().splitlines()
            rows = (re.fullmatch(r"  (.+?)  +(.+)", line).groups() for line in lines)
            sections[title.removesuffix(":")] = dict(rows)
        return sections

    return _printed


def test_what_is_there(printed):
    found = printed()
    assert found["versions"]["aa_detection"] == aa_detection.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert str(torch.get_num_threads()) in found["devices"]["cpu"]
    assert list(found["engines"]) == [*ENGINES, "auto"]
    assert found["engines"]["auto"] in (*ENGINES, "none")
    backends = found["attention on cpu"]
    assert list(backends) == [*BACKENDS, "auto"]
    assert {backends[name] for name in ("dense", "blocked", "folded")} == {"works"}
    assert backends["native"].startswith("no: " if native.absent else "works, ")
    assert backends["auto"].partition(" ")[0] in BACKENDS
    assert ("attention on cuda" in found) == torch.cuda.is_available()


def test_what_is_broken_says_why(printed, monkeypatch):
    def broken(*args):
        raise OSError("libfoo.so: no such file\nand a paragraph")

    def wrong(q, k, v, *others):
        return v + 1

    def no_engine(name):
        raise ImportError("undefined symbol: _Z3foo")

    monkeypatch.setitem(functional.BACKENDS, "folded", broken)
    monkeypatch.setitem(functional.BACKENDS, "blocked", wrong)
    monkeypatch.setattr(environment, "load_engine", no_engine)
    found = printed()
    assert found["attention on cpu"]["folded"] == "no: libfoo.so: no such file"
    assert found["attention on cpu"]["blocked"].startswith("WRONG: off by ")
    assert {found["engines"][name] for name in ENGINES} == {"no: undefined symbol: _Z3foo"}


def test_variables(printed, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/some where")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    found = printed()["environment"]
    assert found["DETECTRON2_DATASETS"] == "/some where" and "CUDA_HOME" not in found


def test_the_issue_template_asks_for_it():
    template = ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml"
    form = yaml.safe_load(template.read_text(encoding="utf-8"))
    fields = {field["id"]: field for field in form["body"] if "id" in field}
    asked = fields["environment"]
    command, program = re.findall(
        r"`(.+?)`", asked["attributes"]["label"] + asked["attributes"]["description"]
    )
    assert command.split() == ["aa-detection", "env"] and "env" in COMMANDS
    assert (ROOT / program.removeprefix("python ")).is_file()
    assert asked["validations"]["required"]
