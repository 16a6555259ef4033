"""docs/configuration.md is what the defaults say."""

import pytest

from .conftest import ROOT

pytest.importorskip("lightning", reason="Lightning is not installed")

from aa_detection.config.loading import leaf_keys  # noqa: E402
from aa_detection.config.table import OWN_KEYS, constraints  # noqa: E402
from aa_detection.engines.reference import COMMAND, reference  # noqa: E402


def test_the_page_is_up_to_date():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert page == reference(), f"run: {COMMAND}"


def test_no_key_is_missing(torchvision_engine):
    """Whatever a config of this engine holds stands in the page, and no table has an empty row."""
    rows = [line.split("|")[1].strip(" `") for line in reference().splitlines() if "| `" in line]
    cfg = torchvision_engine.load_config(str(ROOT / "configs/aa_retinanet_R50.yaml"))
    assert set(leaf_keys(cfg)) == set(rows)
    assert len(rows) == len(set(rows))
    for key in OWN_KEYS:
        assert key.meaning and "|" not in key.allowed.expected + key.meaning
    assert set(leaf_keys(cfg)) == set(constraints())
