"""The documents' world, written once, and small while a module of tests is at it."""

import pytest

from .toy import forget_datasets, toy_scale, write_runs, write_world


@pytest.fixture(scope="session")
def written_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    with toy_scale(folder):
        forget_datasets()
        write_runs(folder)
    forget_datasets()
    return folder


@pytest.fixture(scope="module")
def world(written_world):
    """The folder that `toy.write_world` describes; what documents do meanwhile is small."""
    with toy_scale(written_world):
        yield written_world
    forget_datasets()
