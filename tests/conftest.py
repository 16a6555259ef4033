import logging
import shutil

import pytest
import torch

# the tests' tensors are small, and two processes that each use all cores wait for each other
torch.set_num_threads(1)


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
def log_as_it_was():
    """Undoes what a run does to this project's logger: after it, caplog would see nothing."""
    logger = logging.getLogger("aa_detection")
    propagate, level, handlers = logger.propagate, logger.level, logger.handlers[:]
    yield
    for handler in [each for each in logger.handlers if each not in handlers]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = propagate
    logger.setLevel(level)
