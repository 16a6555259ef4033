"""Shell blocks of documents, run by a real bash whose programs are performed in this process.

Loops, globs, pipes and redirections are bash's. ``python``, ``torchrun`` and what else is listed in
`PROGRAMS` are shims in its ``PATH``: each sends its words to this process, which has torch imported
already, and prints what comes back.
"""

import contextlib
import json
import os
import select
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# not Python's own: a #! line cannot name a program whose folder has a space
SHIM = """#!/bin/sh
exec {python} -IS {client} "${{0##*/}}" "$@"
"""
CLIENT = """\
import json, os, socket, sys
call = {{"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
with connection.makefile("rw", encoding="utf-8") as file:
    print(json.dumps(call), file=file, flush=True)
    answer = json.loads(file.readline())
sys.stdout.write(answer["output"])
sys.stderr.write(answer["errors"])
sys.exit(answer["status"])
"""

# what a program gets: its words (the first is its name), its folder, its environment;
# what it gives: exit status, standard output, standard error
Perform = Callable[[list[str], str, dict[str, str]], tuple[int, str, str]]


def run_shell(
    script: str,
    folder: Path,
    perform: Perform,
    *,
    programs: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run `script` in `folder`; returns bash's exit status and all that was printed."""
    # a socket's address may be 100 letters long, which pytest's folders exceed
    with tempfile.TemporaryDirectory(prefix="aa_") as temporary, contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        address = f"{temporary}/socket"
        server.bind(address)
        server.listen()
        client = Path(temporary) / "client.py"
        client.write_text(CLIENT.format(address=address))
        for name in programs:
            shim = Path(temporary) / "bin" / name
            shim.parent.mkdir(exist_ok=True)
            shim.write_text(SHIM.format(python=shlex.quote(sys.executable), client=client))
            shim.chmod(0o755)
        path = f"{temporary}/bin{os.pathsep}{os.environ['PATH']}"
        printed = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        bash = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**os.environ, **(environment or {}), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            while bash.poll() is None:
                if select.select([server], [], [], 0.02)[0]:
                    _serve(server.accept()[0], perform)
        finally:
            bash.kill()
            bash.wait()
        printed.seek(0)
        return bash.returncode, printed.read()


def _serve(connection: socket.socket, perform: Perform) -> None:
    with connection, connection.makefile("rw", encoding="utf-8") as file:
        call = json.loads(file.readline())
        status, output, errors = perform(call["words"], call["folder"], call["environment"])
        answer = {"status": status, "output": output, "errors": errors}
        with contextlib.suppress(BrokenPipeError):  # its reader has seen enough, as `head` has
            print(json.dumps(answer), file=file, flush=True)
