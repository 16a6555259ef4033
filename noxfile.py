"""The version matrix: the suite in environments of their own, made from nothing by ``nox``.

``oldest`` takes every dependency at the lower bound that pyproject.toml names, ``newest`` at its
newest release that the Python runs. docs/versions.md has the results and the commands.
"""

import nox

nox.options.default_venv_backend = "uv"  # pip has no resolution to the lower bounds


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
@nox.parametrize("versions", ["oldest", "newest"])
def suite(session: nox.Session, versions: str) -> None:
    """Install the package with its extras, not from the checkout's folder, and run its tests."""
    resolution = {"oldest": "lowest-direct", "newest": "highest"}[versions]
    session.install("--resolution", resolution, ".[embedded,test]")
    session.run("pytest", "-q", *session.posargs)
