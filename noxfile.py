"""What is run by hand: the suite in environments of their own, and the security advisories.

``oldest`` takes every dependency at the lower bound that pyproject.toml names, ``newest`` at its
newest release that the Python runs. docs/versions.md has the results and the commands.
"""

import nox

nox.options.default_venv_backend = "uv"  # pip has no resolution to the lower bounds

RESOLUTION = {"oldest": "lowest-direct", "newest": "highest"}


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
@nox.parametrize("versions", ["oldest", "newest"])
def suite(session: nox.Session, versions: str) -> None:
    """Install the package with its extras, not from the checkout's folder, and run its tests."""
    session.install("--resolution", RESOLUTION[versions], ".[embedded,test]")
    session.run("pytest", "-q", *session.posargs)


@nox.session
@nox.parametrize("versions", ["oldest", "newest"])
def audit(session: nox.Session, versions: str) -> None:
    """Ask PyPI for the known advisories of every dependency; nothing is installed but pip-audit."""
    session.install("uv", "pip-audit")
    requirements = f"{session.create_tmp()}/{versions}.txt"
    resolve = ["--resolution", RESOLUTION[versions], "--python-version", "3.10", "--no-annotate"]
    extras = ["--extra", "embedded", "--extra", "test", "--extra", "benchmark"]
    session.run("uv", "pip", "compile", *resolve, *extras, "pyproject.toml", "-o", requirements)
    session.run("pip-audit", "--no-deps", "--disable-pip", "--requirement", requirements)
