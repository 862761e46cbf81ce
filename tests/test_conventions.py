"""Check rules of CONTRIBUTING.md that no linter knows."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = [
    path for room in ("tune_interpreg", "trainables", "analysis") for path in sorted((ROOT / room).rglob("*.py"))
]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in PRODUCT}

METRIC = re.compile(r"(train|val|test|grad_norm)/[a-z_]+")


def strings(tree: ast.AST) -> list[str]:
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_class_names_are_unique() -> None:
    names = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_metric_names_stand_in_one_file() -> None:
    files = {file for file, tree in TREES.items() for text in strings(tree) if METRIC.fullmatch(text)}
    assert files == {"tune_interpreg/study/metric_names.py"}


@pytest.mark.parametrize("library", ["ray", "optuna", "torch"])
def test_private_names_of_libraries_stand_in_one_file(library: str) -> None:
    """Imports of private modules or names, and private attributes of an imported module."""
    files = set()
    for file, tree in TREES.items():
        modules = {library}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == library:
                parts = (node.module or "").split(".") + [alias.name for alias in node.names]
                modules |= {alias.asname or alias.name for alias in node.names}
                if any(is_private(part) for part in parts):
                    files.add(file)
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.split(".")[0] == library]
                if any(is_private(part) for name in names for part in name.split(".")):
                    files.add(file)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and root_name(node) in modules:
                files.add(file)
    assert files <= {"tune_interpreg/cluster/ray_internals.py"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def root_name(node: ast.Attribute) -> str | None:
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        value = value.value
    return value.id if isinstance(value, ast.Name) else None


def test_every_module_has_a_docstring() -> None:
    assert [file for file, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_rooms_have_one_line_docstrings_and_hard_rooms_a_readme() -> None:
    for room in ("networks", "search/matching", "schedule", "store", "cluster"):
        lines = (ROOT / "tune_interpreg" / room / "README.md").read_text(encoding="utf-8").splitlines()
        assert 15 <= len(lines) <= 45, room


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
