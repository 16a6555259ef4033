"""``aa-detection COMMAND …``: the modules of :mod:`aa_detection.commands`, by one name.

A module becomes a command by standing in that folder. Which ones do is known without importing any:
they take seconds to import.
"""

import argparse
import ast
import difflib
import importlib
import sys
from pathlib import Path

from . import __version__

PROG = "aa-detection"


def commands() -> dict[str, Path]:
    """The modules by their commands' names."""
    folder = Path(__file__).with_name("commands")
    return {
        "train" if file.stem == "train_net" else file.stem.replace("_", "-"): file
        for file in sorted(folder.glob("*.py"))
        if file.stem not in ("__init__", "command")
    }


def overview() -> str:
    """A line for every command: the first of what its ``--help`` says."""
    lines = {
        name: (ast.get_docstring(ast.parse(file.read_bytes())) or "").partition("\n")[0]
        for name, file in commands().items()
    }
    width = max(map(len, lines))
    listed = [f"  {name:{width}}  {line}" for name, line in lines.items()]
    return "\n".join(["commands:", *listed, "", f"{PROG} COMMAND --help says more of each."])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is the command's, or 2 where there is none such."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} COMMAND …",
        description="Attention-augmented backbones for object detection.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.epilog = overview()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    known = commands()
    if args.command not in known:
        nearest = difflib.get_close_matches(args.command, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"expected {', '.join(known)}"
        print(f"{PROG}: unknown command {args.command!r}, {hint}", file=sys.stderr)
        return 2
    prog = f"{PROG} {args.command}"
    try:
        tool = importlib.import_module(f"aa_detection.commands.{known[args.command].stem}")
        return tool.main(args.words, prog)
    except ModuleNotFoundError as error:
        if (error.name or "aa_detection").startswith("aa_detection"):
            raise
        print(
            f"{prog}: {error.name} is not installed; all that commands may need comes with "
            "pip install 'aa_detection[embedded,benchmark,convert]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
