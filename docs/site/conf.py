"""The documentation site: this repository's Markdown as it stands, and the docstrings.

The sources' root is the repository's, so a link that works on GitHub works on the site; what is no
page of it (a configuration, a source file) is offered as a download. `make docs` builds the site.
"""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

import aa_detection

project = "aa_detection"
author = "the authors of aa_detection"
project_copyright = "the authors of aa_detection; Apache-2.0"
version = release = aa_detection.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/**/*.md",
    "docs/site/*.rst",
    "examples/*.md",
    "examples/**/*.md",
]
# folders that are not looked into at all
exclude_patterns = [".*", "build", "datasets", "dist", "output"]

myst_heading_anchors = 3  # by GitHub's rule
suppress_warnings = ["myst.header"]  # tables that begin with a heading of the second rank
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = f"aa_detection {version}"
html_copy_source = False
html_show_sourcelink = False

# The README is read on GitHub and PyPI too, where a table of contents would be a block of code.
CONTENTS = """
```{toctree}
:hidden:
:caption: To use it

docs/configuration
docs/configs
docs/datasets
docs/weights
docs/training
docs/multi_machine
docs/accidents
docs/export
docs/troubleshooting
docs/comparison-with-others
examples/README
examples/detectron2_project/README
examples/lazyconfig/README
```

```{toctree}
:hidden:
:caption: To understand and to change it

docs/operator
docs/padding
docs/extending
docs/site/api
docs/site/packages
CONTRIBUTING
CHANGELOG
```

```{toctree}
:hidden:
:caption: What was measured

docs/reproducing
docs/gains/README
docs/starts/README
docs/photographs/README
docs/sweep/README
docs/benchmark/README
docs/versions
docs/README
```
"""


def complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the site's contents behind its front page; commands' tables are not among them."""
    if page == root_doc:
        source[0] += CONTENTS
    elif page.endswith("/table"):  # its folder's README links it
        source[0] = f"---\norphan: true\n---\n{source[0]}"


def copy_front_page(app: Sphinx, problem: Exception | None) -> None:
    """Give servers the file that they show of a folder; it lies beside the page it is."""
    if problem is None and app.builder.name == "html":
        shutil.copy(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    """Connect the two."""
    app.connect("source-read", complete)
    app.connect("build-finished", copy_front_page)
