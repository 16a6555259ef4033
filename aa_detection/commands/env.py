"""Print versions, devices, engines and backends, for a bug report."""

import argparse

from ..engines.environment import describe_environment
from .arguments import command_parser
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "env.py", prog)
    return parser.parse_args(argv)


def run() -> None:
    print(describe_environment())


def main(argv: list[str] | None = None, prog: str = "env.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    parse_args(argv, prog)
    return run_command(prog, run)
