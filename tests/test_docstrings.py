"""Docstrings keep up with the code: what they refer to is there, by the name they give it."""

import ast
import re
from importlib.util import resolve_name
from pathlib import Path

import pytest

import aa_detection

PACKAGE = Path(aa_detection.__file__).parent
REFERENCE = re.compile(r":(?:func|class|meth|attr|mod|data|exc):`~?([\w.]+)`")


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_in(tree: ast.Module) -> set[str]:
    """What a module defines, imports or assigns; of classes also ``Class.member``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.ClassDef):
            for part in ast.walk(node):
                if isinstance(part, ast.FunctionDef):
                    names.add(f"{node.name}.{part.name}")
                elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    names.add(f"{node.name}.{part.target.id}")
                elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    names.add(f"{node.name}.{part.attr}")
    return names


FILES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")}
NAMES = {module_name(file): names_in(tree) for file, tree in FILES.items()}
by_file = pytest.mark.parametrize("file", sorted(FILES), ids=lambda f: str(f.relative_to(PACKAGE)))


def is_there(target: str, module: str, package: str) -> bool:
    if not target.startswith((".", "aa_detection.")):
        # of this module, or of the class whose docstring it is
        return any(name == target or name.endswith(f".{target}") for name in NAMES[module])
    target = resolve_name(target, package)
    parts = target.split(".")
    return target in NAMES or any(
        ".".join(parts[i:]) in NAMES.get(".".join(parts[:i]), ()) for i in range(1, len(parts))
    )


@by_file
def test_references_lead_somewhere(file):
    module = module_name(file)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for target in REFERENCE.findall(file.read_text(encoding="utf-8")):
        assert target.startswith("torch.") or is_there(target, module, package), target


@by_file
def test_documented_arguments_are_arguments(file):
    for node in ast.walk(FILES[file]):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        documented = re.search(r"^Args:\n((?: .*\n?|\n)+)", ast.get_docstring(node) or "", re.M)
        if not documented:
            continue
        taken = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
        if isinstance(node, ast.ClassDef):  # a dataclass's
            taken |= {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
        for names in re.findall(r"^    (\w[\w, ]*):", documented[1], re.M):
            assert set(names.split(", ")) <= taken, f"{node.name}: {names}"
