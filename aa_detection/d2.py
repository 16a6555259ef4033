"""Run a detectron2 program with this project's keys and backbones registered.

    python -m aa_detection.d2 detectron2/tools/analyze_model.py --tasks parameter \\
        --config-file configs/aa_retinanet_R50.yaml

Programs that do not know this project start from ``detectron2.config.get_cfg()`` and stop at
"Non-existent config key: MODEL.ATTENTION". This module adds the keys to the defaults, also in the
processes that the program spawns.
"""

import os
import sys

# names the program to spawned processes, whose argv[0] is this file
_PROGRAM = "AA_DETECTION_PROGRAM"


def _take_program() -> str:
    """Return the program's path and remove this module from the program's ``sys.argv``."""
    if __name__ == "__main__":
        if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
            print(__doc__)
            raise SystemExit(0 if len(sys.argv) > 1 else 2)
        del sys.argv[0]
        os.environ[_PROGRAM] = sys.argv[0]
    return os.environ[_PROGRAM]


def _read(program: str) -> str:
    try:
        with open(program, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not a Python program"
        print(f"{program}: {problem}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ in ("__main__", "__mp_main__"):  # "__mp_main__" in a spawned process
    _program = _take_program()
    _code = compile(_read(_program), _program, "exec")
    try:
        from aa_detection.engines.detectron2.config import add_to_defaults
    except ModuleNotFoundError:
        print("aa_detection.d2: detectron2 is not installed", file=sys.stderr)
        raise SystemExit(2) from None
    add_to_defaults()
    sys.path[0] = os.path.dirname(os.path.abspath(_program))  # as Python does for a program
    __file__ = _program
    # in this namespace, where a spawned process looks for the program's functions
    exec(_code)
