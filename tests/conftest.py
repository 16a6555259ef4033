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
