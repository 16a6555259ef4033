"""How commands end: an exit status, and one line for errors that a user can fix."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from ..config import ConfigError
from ..data import DatasetError
from ..one_line import on_one_line
from ..training.failures import RunError, exit_status, is_out_of_memory
from ..training.interrupt import Interrupted


def run_command(
    prog: str, function: Callable[..., int | None], *args: Any, interrupted: str = "interrupted"
) -> int:
    """Call `function` and return the command's exit status.

    Args:
        prog: prefix of the line on standard error.
        interrupted: the line's text after Ctrl-C, which says what is left.

    Returns:
        What `function` returns, 0 for None; 2 for input that cannot be used, 1 for a run that
        failed or ran out of memory, 130 after Ctrl-C, 143 after SIGTERM. A bug keeps its traceback.
    """
    try:
        return function(*args) or 0
    except (ConfigError, DatasetError, RunError, Interrupted) as end:
        print_error(f"{prog}: {end}")
        return exit_status(end)
    except OSError as error:
        what = str(error).partition("\n")[0]
        if error.filename:
            what = f"{error.filename}: {error.strerror}"
        print_error(f"{prog}: {what}")
        return 2
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        why = (str(error).splitlines() or ["nothing is left"])[0]
        print_error(f"{prog}: out of memory: {why}; fewer or smaller inputs at a time need less")
        return 1
    except KeyboardInterrupt:
        print_error(f"{prog}: {interrupted}")
        return 130


def print_error(line: str) -> None:
    """Print an error's line to standard error from only one of torchrun's processes.

    Bad input fails all processes alike. The first one prints at once and exits, and torchrun then
    ends the others. A process that is still alive after a while prints its own error.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0":
        time.sleep(10)
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(on_one_line(line), file=sys.stderr, flush=True)
