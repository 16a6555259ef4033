"""The documentation site builds without a warning, and its pages lead to one another."""

import html.parser
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import aa_detection

ROOT = Path(__file__).resolve().parents[2]


class Links(html.parser.HTMLParser):
    """What a page refers to, and the places of it that can be referred to."""

    def __init__(self, page: Path):
        super().__init__()
        self.targets, self.places = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.places |= {attributes["id"]} if "id" in attributes else set()
        self.targets += [attributes[name] for name in ("href", "src") if name in attributes]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("sphinx", "myst_parser", "furo"):
        if not find_spec(module):
            pytest.skip(f"{module} is not installed")
    folder = tmp_path_factory.mktemp("a site")
    words = ["--fail-on-warning", "--keep-going", "--quiet", "-c", "docs/site", "."]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {page: Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}


def test_every_document_is_a_page(pages, site):
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md"):
        for document in ROOT.glob(pattern):
            assert site / document.relative_to(ROOT).with_suffix(".html") in pages
    assert site / "index.html" in pages


def test_links_lead_somewhere(pages, site):
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            linked = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert linked.exists(), f"{page.relative_to(site)}: no {target}"
            if parts.fragment and linked in pages:
                places = pages[linked].places
                assert unquote(parts.fragment) in places, f"{page.relative_to(site)}: no {target}"


def test_the_reference_has_the_public_names(pages, site):
    places = pages[site / "docs/site/api.html"].places
    assert {f"aa_detection.{name}" for name in aa_detection.__all__} <= places


def test_no_role_is_left_as_it_is_written(site):
    for name in ("api", "packages"):
        text = (site / f"docs/site/{name}.html").read_text(encoding="utf-8")
        assert ":class:" not in text and ":func:" not in text and "Args:" not in text
