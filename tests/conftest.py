import importlib
import logging
import shutil
import signal
import sys

import pytest
import torch

from aa_detection.attention import BACKENDS
from aa_detection.data import catalog
from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.engines import ENGINES, load_engine
from aa_detection.layers import GATES
from aa_detection.models import CONVS

# the tests' tensors are small, and two processes that each use all cores wait for each other
torch.set_num_threads(1)


@pytest.fixture
def at_a_terminal():
    """As if pytest had not been started by nohup, which has SIGHUP ignored here and in children."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def load_tool():
    """``load_tool(name)``: the module with the ``main`` that ``tools/<name>.py`` calls."""
    return lambda name: importlib.import_module(f"aa_detection.commands.{name}")


def _require_engine(name):
    if name == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    else:
        pytest.importorskip("lightning", reason="Lightning is not installed")
    return name


@pytest.fixture(params=ENGINES)
def engine_name(request):
    return _require_engine(request.param)


@pytest.fixture
def engine(engine_name):
    return load_engine(engine_name)


@pytest.fixture
def torchvision_engine():
    return load_engine(_require_engine("torchvision"))


@pytest.fixture
def detectron2_engine():
    return load_engine(_require_engine("detectron2"))


@pytest.fixture(scope="session")
def sample_dataset(tmp_path_factory):
    """A small sample dataset under a root with a space in its name; not to be changed."""
    return write_sample_dataset(
        tmp_path_factory.mktemp("data sets"), num_train=12, num_val=4, seed=3
    )


@pytest.fixture(scope="module")
def sample_root(sample_dataset):
    """``$DETECTRON2_DATASETS`` is :func:`sample_dataset`'s root while a module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(sample_dataset.parent))
        yield sample_dataset.parent


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
def own_datasets():
    """Forgets the datasets that a test registered, by their paths."""
    before = dict(catalog._registered)
    yield
    catalog._registered.clear()
    catalog._registered.update(before)
    if "detectron2.data" in sys.modules:
        from detectron2.data import DatasetCatalog, MetadataCatalog

        for name in DatasetCatalog.list():
            if name.startswith(("aa_", "custom_")):
                DatasetCatalog.remove(name)
                MetadataCatalog.pop(name, None)


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
