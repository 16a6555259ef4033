"""Every code block of the documents runs, in order, as it stands there and at toy scale.

A ``python`` block is executed; the blocks of one document share their names. A ``bash`` block is
run by bash in a folder that looks like a checkout of this project, with what `toy.write_world` and
`toy.write_runs` put there; the blocks of one document share that folder. A ``yaml`` block is a
configuration, which is loaded. ``text`` is what a program prints, and ``bibtex`` a reference. There
are no others.
"""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.example import SybilFailure
from sybil.parsers.markdown import CodeBlockParser

from aa_detection.config import ConfigError
from aa_detection.engines import load_engine

from .programs import PERFORMED, SLURM, UNPERFORMED, perform
from .shell import run_shell
from .toy import ROOT, forget_datasets

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md") for path in ROOT.glob(pattern)
)
# test_reproducing.py runs a part of its 25 trainings
ELSEWHERE = ROOT / "docs/reproducing.md"
LANGUAGES = ("python", "bash", "yaml", "text", "bibtex")
# what not every machine has that runs the tests, and the blocks that need it
NEEDED = {
    "detectron2": r"(import|from) detectron2|add_aa_config|rcnn|engine.detectron2|"
    r"detectron2_project|lazyconfig",
    "timm": r"benchmark\.py attention",
}


def run_bash(example) -> str | None:
    """What went wrong, if anything; Sybil makes a failure of it."""
    status, printed = run_shell(
        example.parsed,
        Path.cwd(),
        perform,
        programs=(*PERFORMED, *UNPERFORMED),
        environment={"PYTHONPATH": str(ROOT), **SLURM},
    )
    return f"{example.parsed}\nexit status {status}\n{printed}" if status else None


def load_yaml(example) -> None:
    path = Path.cwd() / "block.yaml"
    path.write_text(example.parsed, encoding="utf-8")
    load_engine("auto").load_config(str(path))


SYBIL = Sybil(
    [
        CodeBlockParser("python", PythonEvaluator()),
        CodeBlockParser("bash", run_bash),
        CodeBlockParser("yaml", load_yaml),
    ]
)
EXAMPLES = {page: list(SYBIL.parse(page)) for page in PAGES if page != ELSEWHERE}
BLOCKS = [
    pytest.param(page, example, id=f"{page.relative_to(ROOT)}:{example.line}")
    for page, examples in EXAMPLES.items()
    for example in examples
]


def not_installed(example) -> str | None:
    """What the block needs and this machine lacks."""
    for module, use in NEEDED.items():
        if re.search(use, example.parsed) and not importlib.util.find_spec(module):
            return module
    return None


@pytest.fixture(scope="module")
def checkouts(world, tmp_path_factory):
    """``checkouts(page)``: the folder in which the blocks of that page run."""
    folders = {}

    def _checkout(page: Path) -> Path:
        if page not in folders:
            folder = folders[page] = tmp_path_factory.mktemp("check out")
            for name in ("configs", "tools"):
                (folder / name).symlink_to(ROOT / name)
            if (ROOT / "examples").exists():
                shutil.copytree(ROOT / "examples", folder / "examples")
            (folder / "datasets").symlink_to(world / "datasets")
            # commands may replace these files, and do not write into them
            for path in world.iterdir():
                if path.name in ("datasets", "cache"):
                    continue
                if path.is_dir():
                    shutil.copytree(path, folder / path.name, copy_function=os.link)
                else:
                    os.link(path, folder / path.name)
        return folders[page]

    return _checkout


@pytest.fixture(scope="module")
def outcomes():
    """By page and line, what a block that has run raised, or None."""
    return {}


@pytest.mark.parametrize(("page", "example"), BLOCKS)
def test_block(page, example, checkouts, outcomes, monkeypatch):
    if module := not_installed(example):
        pytest.skip(f"{module} is not installed")
    monkeypatch.chdir(checkouts(page))
    # and the blocks before it, where another process or none was given them
    for each in EXAMPLES[page]:
        if each.line > example.line or (page, each.line) in outcomes or not_installed(each):
            continue
        forget_datasets()
        try:
            each.evaluate()
        except Exception as problem:
            outcomes[page, each.line] = problem
        else:
            outcomes[page, each.line] = None
    if outcomes[page, example.line]:
        raise outcomes[page, example.line]


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "from aa_detection import AAConv3d"),
        ("bash", "python tools/analyze_model.py --tabel"),
        ("bash", "python tools/analyse_model.py --table"),
        ("bash", "aa-detection trian"),
        ("bash", "python tools/analyze_model.py --config-file configs/none.yaml | head -n 1"),
        ("bash", "for word in --tabel --help; do python tools/analyze_model.py $word; done"),
        ("bash", "torchrun --processes 2 tools/train_net.py --help"),
        ("bash", "pip install -e '.[embeded]'"),
        ("bash", "make dmeo"),
        ("bash", "pytest tests/documents/test_none.py"),
        ("bash", "no-such-program"),
        ("yaml", "MODEL: {ATENTION: {CONV: aa}}"),
    ],
    ids=lambda words: words,
)
def test_a_broken_block_is_noticed(language, code, checkouts, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"```{language}\n{code}\n```\n")
    monkeypatch.chdir(checkouts(page))
    (example,) = SYBIL.parse(page)
    with pytest.raises((SybilFailure, ImportError, ConfigError)):
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_other_code(page):
    fence = ""
    before = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        place = f"{page.relative_to(ROOT)}:{number}"
        if marks := re.match(r"\s*(`{3,}|~{3,})(.*)", line):
            if not fence:
                fence, language = marks.groups()
                assert language in LANGUAGES, f"{place}: a block of {language or 'no language'}"
            elif marks[1] == fence:
                fence = ""
        elif not fence:
            indented = line.startswith("    ") and not before.strip()
            assert not indented, f"{place}: an indented block; use a fenced one, of a language"
        before = line
    assert not fence, f"{page}: a block without an end"


@pytest.mark.parametrize("program", UNPERFORMED)
def test_what_is_not_run_is_in_some_document(program):
    called = re.compile(rf"^\s*(?:\$ )?(?:sudo )?{program}\b", re.MULTILINE)
    assert any(called.search(block.values[1].parsed) for block in BLOCKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.relative_to(ROOT)}: no {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)", linked.read_text(encoding="utf-8"), re.MULTILINE)
            # as GitHub makes an address of a title
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, f"{page.relative_to(ROOT)}: no {target}"
