"""How the layers' tests run."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Maps this small gain nothing from threads, and lose much where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
