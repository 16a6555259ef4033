"""hubconf.py: what torch.hub lists and loads."""

import inspect
import runpy
from pathlib import Path

import pytest
import torch

from aa_detection.models import classification

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(
    name
    for name, value in vars(classification).items()
    if inspect.isfunction(value)
    and value.__module__ == classification.__name__
    and not name.startswith("_")
)

pytestmark = pytest.mark.skipif(
    not (ROOT / "hubconf.py").exists(), reason="hubconf.py is not in the wheel"
)


def load(name, **arguments):
    return torch.hub.load(str(ROOT), name, source="local", **arguments)


def test_every_classifier_is_an_entry_point():
    offered = runpy.run_path(str(ROOT / "hubconf.py"))
    # what torch.hub.list takes for one; it has no way to be asked about a folder
    names = [name for name, x in offered.items() if callable(x) and not name.startswith("_")]
    assert sorted(names) == NAMES
    for name in names:
        assert offered[name].__doc__ == getattr(classification, name).__doc__


@pytest.mark.parametrize("name", ["aa_resnet18", "aw_resnet50", "aa_wide_resnet28_10"])
def test_it_is_the_classifier(name):
    torch.manual_seed(0)
    model = load(name, num_classes=3).eval()
    torch.manual_seed(0)
    twin = getattr(classification, name)(num_classes=3).eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(images), twin(images))
        assert model(images).shape == (1, 3)


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name}: there are no pretrained weights; [^\n]*$"):
        load(name, pretrained=True)
