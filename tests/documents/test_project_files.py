"""LICENSE, CITATION.cff and CHANGELOG.md agree with the package."""

import re
from pathlib import Path

import yaml

import aa_detection

ROOT = Path(__file__).resolve().parents[2]


def test_the_citation_is_of_this_version_and_has_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == aa_detection.__version__
    assert citation["license"] == "Apache-2.0"
    papers = [reference["url"] for reference in citation["references"]]
    assert papers == ["https://arxiv.org/abs/1904.09925", "https://arxiv.org/abs/2108.08205"]


def test_the_changelog_has_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.*?)\].*?(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    version = aa_detection.__version__
    assert newest[1] == version or (newest[1] == "Unreleased" and version in newest[0])
