"""``aa-detection COMMAND …``: one entry point for the modules of :mod:`aa_detection.commands`."""

import argparse
import difflib
import importlib
import sys

from . import __version__
from .commands import COMMANDS, module_name

PROG = "aa-detection"


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listed = [f"  {name:{width}}  {line}" for name, line in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} COMMAND …",
        description="Attention-augmented backbones for object detection.",
        epilog="\n".join(["commands:", *listed, "", f"{PROG} COMMAND --help says more of each."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the command's exit status, or 2 for an unknown command."""
    command, *words = (sys.argv[1:] if argv is None else argv) or [""]
    if not command:
        _parser().print_help()
        return 0
    if command.startswith("-"):
        _parser().parse_args([command])
    if command not in COMMANDS:
        nearest = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"expected {', '.join(COMMANDS)}"
        print(f"{PROG}: unknown command {command!r}, {hint}", file=sys.stderr)
        return 2
    prog = f"{PROG} {command}"
    try:
        module = importlib.import_module(f"{__package__}.commands.{module_name(command)}")
        return module.main(words, prog)
    except ModuleNotFoundError as error:
        if (error.name or "aa_detection").startswith("aa_detection"):
            raise
        print(
            f"{prog}: {error.name} is not installed; pip install "
            "'aa_detection[embedded,benchmark,convert]' installs what every command needs",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
