"""``aa-detection``: the programs of tools/ by one name, and how it is told what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aa_detection
from aa_detection.__main__ import main
from aa_detection.commands import COMMANDS, module_name

ROOT = Path(__file__).resolve().parents[2]


def test_commands_and_tools_are_the_same():
    modules = {module_name(command) for command in COMMANDS}
    assert modules == {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert len(modules) == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tool_calls_its_command_and_the_list_says_what_it_does(command, load_tool):
    name = module_name(command)
    assert (
        f"from aa_detection.commands.{name} import main" in (ROOT / f"tools/{name}.py").read_text()
    )
    assert COMMANDS[command] == load_tool(name).__doc__.partition("\n")[0]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "10000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
)
def test_waiting_threads_spin_briefly_unless_the_user_says_otherwise(chosen, expected):
    variables = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    program = f"""
import os, sys, aa_detection.commands
assert "torch" not in sys.modules  # it reads them when it is loaded
print(*map(os.environ.get, {variables}))
"""
    words = [sys.executable, "-c", program]
    answer = subprocess.run(words, env={**environment, **chosen}, capture_output=True, text=True)
    assert answer.stdout.strip() == expected, answer.stderr


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_list(words, capsys):
    try:
        assert main(words) == 0
    except SystemExit as end:
        assert end.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: aa-detection COMMAND")
    for command in COMMANDS:
        (line,) = [line for line in lines if line.split()[:1] == [command]]
        assert line.endswith((".", "?")) and len(line) <= 100


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"aa-detection {aa_detection.__version__}\n"


@pytest.mark.parametrize(
    "word, hint", [("trian", "did you mean train?"), ("zzz", "expected analyze-model, benchmark,")]
)
def test_an_unknown_command_is_one_line(word, hint, capsys):
    assert main([word, "--help"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"aa-detection: unknown command {word!r}, {hint}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_calls_itself_what_was_typed(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: aa-detection {command} ")
    assert f"{module_name(command)}.py" not in out


def test_so_do_its_messages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config-file", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("aa-detection train: nowhere.yaml: no such file")


def test_what_is_not_installed_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "aa_detection.commands.analyze_model", raising=False)
    assert main(["analyze-model", "--table"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("aa-detection analyze-model: torchvision is not installed; ")
    assert err.count("\n") == 1


def test_torch_is_not_imported_before_the_command_is_known():
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from aa_detection.__main__ import main\n"
        "sys.exit(main(['trian']) - main([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_what_the_package_shows_is_found_on_first_use():
    assert {"AAConv2d", "relative_attention_2d", "add_aa_config"} <= set(dir(aa_detection))
    for name in aa_detection.__all__:
        assert getattr(aa_detection, name).__module__.startswith("aa_detection")
    with pytest.raises(AttributeError, match="no attribute 'AAConv3d'"):
        aa_detection.AAConv3d  # noqa: B018
