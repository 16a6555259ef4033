"""The workflows of .github/: what runs is pinned, may do little, and fits the project."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
TEXTS = {file.name: file.read_text(encoding="utf-8") for file in FILES}
WORKFLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = {
    f"{name}:{job}": content
    for name, workflow in WORKFLOWS.items()
    for job, content in workflow["jobs"].items()
}
# who may do more than read the repository; why stands in the file
MORE = {
    "release.yml:publish": {"id-token": "write"},
    "docs.yml:deploy": {"pages": "write", "id-token": "write"},
}


def test_there_are_workflows():
    assert {"build.yml", "docs.yml", "lint.yml", "release.yml", "test.yml"} <= set(WORKFLOWS)
    assert set(MORE) <= set(JOBS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_to_a_commit(name):
    """A tag can be moved to other code; the version beside the commit is what dependabot reads."""
    for line in TEXTS[name].splitlines():
        if re.search(r"\buses:", line):
            pinned = re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)
            own = re.search(r"uses: \./(\.github/workflows/[\w-]+\.yml)$", line)
            assert pinned or own, f"{name}: {line.strip()}"
            assert not own or (ROOT / own[1]).exists(), f"{name}: {line.strip()}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_read_and_nothing_else(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_may_do_no_more_than_it_needs(job):
    assert JOBS[job].get("permissions") == MORE.get(job)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_and_leaves_no_token_behind(job):
    if "uses" in JOBS[job]:  # the other workflow's jobs say it
        return
    assert JOBS[job]["timeout-minutes"] <= 90
    for step in JOBS[job]["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        # a branch may have a program for its name
        assert "${{" not in step.get("run", ""), "hand it over in env"


def test_only_what_was_tested_and_built_is_published():
    assert WORKFLOWS["release.yml"][True] == {"push": {"tags": ["v*"]}}  # YAML reads "on" as true
    publish = JOBS["release.yml:publish"]
    assert set(publish["needs"]) == {"test", "build"}
    (upload,) = [step for step in publish["steps"] if "pypi-publish" in step.get("uses", "")]
    assert upload["with"] == {"attestations": True}  # and no password
    built = [
        step["with"]["name"]
        for job in (JOBS["build.yml:build"], publish)
        for step in job["steps"]
        if "-artifact@" in step.get("uses", "")
    ]
    assert built == ["dist", "dist"]


def test_the_matrix_is_the_pythons_that_the_package_names():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert JOBS["test.yml:embedded"]["strategy"]["matrix"]["python"] == named


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_make_is_asked_for_is_there(name):
    for target in re.findall(r"run: make (\w+)", TEXTS[name]):
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("dependabot", "dependabot.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/*.yml"),
    ],
)
def test_the_files_have_githubs_form(schema, pattern):
    if not find_spec("check_jsonschema"):
        pytest.skip("check-jsonschema is not installed")
    files = sorted((ROOT / ".github").glob(pattern))
    assert files
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*words, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_nothing():
    actionlint = shutil.which("actionlint")
    if not actionlint:
        pytest.skip("actionlint is not installed")
    done = subprocess.run([actionlint, *FILES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
