"""Who may import whom: arrows point down only."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aa_detection

PACKAGE = Path(aa_detection.__file__).parent
# from the bottom up; those on one line do not import each other
LAYERS = (
    ("atomic_file", "attention", "one_line"),
    ("layers",),
    ("models",),
    ("config", "data"),
    ("evaluation", "export", "overwriting", "training"),
    ("comparison",),
    ("checkpoints",),
    ("visualization",),
    ("inference",),
    ("engines",),
    ("reports",),
    ("studies",),
    ("commands",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# what only one place may import
OWNED = {
    "detectron2": PACKAGE / "engines" / "detectron2",
    "lightning": PACKAGE / "engines" / "torchvision",
}
# a wheel has the configs, LazyConfigs among them, inside the package
FILES = sorted({*PACKAGE.rglob("*.py")} - {*(PACKAGE / "configs").rglob("*.py")})


def place(file: Path) -> tuple[str, ...]:
    """The parts of a file's path below the package."""
    return file.relative_to(PACKAGE).parts


def imported(file: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports, inside functions too."""
    package = ("aa_detection", *place(file)[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # "from .. import data" names a package as "from ..data import x" does
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(module: str) -> str | None:
    """The layer that a module of this project stands in; None for the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "aa_detection" and len(parts) > 1 and parts[1] in RANK else None


def test_every_package_has_its_layer():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(RANK), f"not in LAYERS: {packages - set(RANK)}"
    assert all((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists() for name in RANK)


@pytest.mark.parametrize("file", FILES, ids=lambda file: "/".join(place(file)))
def test_arrows_point_down(file):
    parts = place(file)
    name = parts[0].removesuffix(".py")
    if name in ("__init__", "__main__", "d2"):
        return  # the package's face imports what it shows
    for module in imported(file):
        target = layer(module)
        if target is not None and target != name:
            assert RANK[target] < RANK[name], f"{name} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: "/".join(place(file)))
def test_frameworks_stay_in_their_engines(file):
    for module in imported(file):
        owner = OWNED.get(module.split(".")[0])
        assert owner is None or owner in file.parents, f"{module} belongs to {owner.name}"


def test_the_engines_do_not_import_each_other():
    for engine, other in (("detectron2", "torchvision"), ("torchvision", "detectron2")):
        for file in (PACKAGE / "engines" / engine).rglob("*.py"):
            assert not any(
                module.startswith(f"aa_detection.engines.{other}") for module in imported(file)
            ), file


def test_models_know_no_detector():
    for file in (PACKAGE / "models").rglob("*.py"):
        detectors = "torchvision.models.detection"
        assert not any(module.startswith(detectors) for module in imported(file)), file


def test_a_command_imports_no_other():
    for file in sorted((PACKAGE / "commands").glob("*.py")):
        for module in imported(file):
            other = module.startswith("aa_detection.commands.")
            shared = module.split(".")[2:3] in (["arguments"], ["ending"])
            assert shared or not other, f"{file.name} imports {module}"


def test_attention_and_layers_know_torch_alone():
    known = {"torch", "triton", "aa_detection"}
    for name in ("attention", "layers"):
        for file in (PACKAGE / name).rglob("*.py"):
            outside = {module.split(".")[0] for module in imported(file)} - known
            assert outside <= set(sys.stdlib_module_names), (file, outside)
