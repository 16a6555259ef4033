import importlib
import logging
import shutil

import pytest
import torch

from aa_detection.attention import BACKENDS
from aa_detection.layers import GATES
from aa_detection.models import CONVS

# the tests' tensors are small, and two processes that each use all cores wait for each other
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def load_tool():
    """``load_tool(name)``: the module with the ``main`` that ``tools/<name>.py`` calls."""
    return lambda name: importlib.import_module(f"aa_detection.commands.{name}")


@pytest.fixture(scope="module")
def browser():
    """A Chromium of the machine's without a window, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        # it refuses to run as root, as containers do, with a sandbox
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def own_attention():
    """Forgets the attention, gates and backends that a test registered."""
    registered = [(names, dict(names)) for names in (CONVS, GATES, BACKENDS)]
    yield
    for names, before in registered:
        names.clear()
        names.update(before)


@pytest.fixture(autouse=True)
def own_log():
    """Undoes what a run does to this project's logger: after it, caplog would see nothing.

    Before every test too: the runs of fixtures with a wider scope come before this one's.
    """
    _reset_log()
    yield
    _reset_log()


def _reset_log():
    logger = logging.getLogger("aa_detection")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
