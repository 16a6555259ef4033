import pytest

from aa_detection.data.synthetic.sample import write_sample_dataset


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The sample dataset: all of its validation images, some of its training images."""
    root = tmp_path_factory.mktemp("a folder with spaces")
    return write_sample_dataset(root, num_train=30, num_val=80)
