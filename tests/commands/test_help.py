"""``--help`` of every tool says what each option is, and its default."""

import argparse
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))


class Parsed(Exception):
    """In place of parsing: holds the parser."""


def options(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options(command)
        else:
            yield action


@pytest.mark.parametrize("name", TOOLS)
def test_every_option_is_explained(load_tool, monkeypatch, name):
    def stop(parser, argv=None):
        raise Parsed(parser)

    for method in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, method, stop)
    with pytest.raises(Parsed) as parsed:
        load_tool(name).main([])
    found = list(options(parsed.value.args[0]))
    assert len(found) > 1 or name == "env"  # more than --help
    for action in found:
        assert action.help, action
        if action.option_strings and action.default not in (None, False, (), argparse.SUPPRESS):
            assert "default" in action.help, action
