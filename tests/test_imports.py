"""Check who may import whom: one line per room, as in the table of ARCHITECTURE.md."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tune_interpreg", "trainables", "analysis", "search_spaces")

#: Room → the rooms or modules that it may import from, besides itself. A name covers all below it.
MAY_IMPORT = {
    "registry": "",
    "seeding": "",
    "stopping": "",
    "guides": "",
    "launching": "",
    "packages": "",
    "study": "registry",
    "store": "study",
    "networks": "study registry seeding",
    "data": "study store.files seeding registry",
    "gradients": "networks study",
    "attacks": "networks data study seeding",
    "training": "gradients networks data study seeding",
    "evaluation": "attacks gradients networks data study seeding",
    "search": "store study seeding",
    "schedule": "search store study registry seeding",
    "display": "schedule store study",
    "cluster": "schedule store study data stopping registry packages",
    "status": "display schedule search store study",
    "running": "cluster display schedule search.target store data networks attacks study seeding stopping trackers",
    "trackers": "schedule store study registry packages analysis",
    "planning": "running cluster display schedule store study training evaluation attacks gradients networks data"
    " seeding registry",
    "commands": "planning running trackers cluster.environment status data store study registry stopping guides"
    " launching analysis",
    "cli": "commands __init__",
    "__main__": "cli packages",
    "notebook": "planning running trackers status store study stopping packages analysis",
    "__init__": "analysis packages notebook study",
    "trainables": "training evaluation attacks gradients networks data display.trial_log store study seeding registry",
    "analysis": "study store schedule.current search.importances",
}

#: Third-party package → the only places that import it.
ONLY_IN = {
    "ray": ("tune_interpreg.cluster", "trainables"),
    "optuna": ("tune_interpreg.search",),
    "matplotlib": ("analysis.figures",),
    "mlflow": ("tune_interpreg.trackers",),
    "wandb": ("tune_interpreg.trackers",),
    "obstore": ("tune_interpreg.store.bucket",),
}

#: Modules that are imported without torch, Ray and Optuna, because they answer in a terminal at once.
LIGHT = (
    "analysis.report",
    "tune_interpreg.status.observer",
    "tune_interpreg.schedule.current",
    "tune_interpreg.schedule.graph",
    "tune_interpreg.store.store",
    "tune_interpreg.study.file.read",
)


def module_name(path: Path) -> str:
    """Return ``tune_interpreg.store.store`` for its file; a package's ``__init__`` keeps that name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


SOURCES = {
    module_name(path): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of everything that a source imports; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner_name(full: str) -> str | None:
    """Return a module's name inside the project: ``store.files``, ``trainables``; None for other packages."""
    parts = full.split(".")
    if parts[0] in ("trainables", "analysis"):
        return ".".join(parts)
    if parts[0] != "tune_interpreg":
        return None
    rest = ".".join(parts[1:])
    return rest if rest.split(".")[0] in MAY_IMPORT else "__init__"


def prefixes(full: str) -> set[str]:
    """Return the modules of the project that importing ``full`` loads by name."""
    parts = full.split(".")
    return {name for n in range(1, len(parts) + 1) if (name := ".".join(parts[:n])) in SOURCES}


def room_of(inner: str) -> str:
    return inner.split(".")[0]


def covers(allowed: str, inner: str) -> bool:
    return inner == allowed or inner.startswith(allowed + ".")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    allowed = MAY_IMPORT[room].split()
    for name, tree in SOURCES.items():
        if room_of(inner_name(name) or "") != room:
            continue
        imported = {inner for full in imports(tree) if (inner := inner_name(full)) and room_of(inner) != room}
        refused = {inner for inner in imported if not any(covers(one, inner) for one in allowed)}
        assert not refused, f"{name} imports {', '.join(sorted(refused))}"


def test_every_module_belongs_to_a_room() -> None:
    rooms = {room_of(inner_name(name) or "") for name in SOURCES if not name.startswith("search_spaces")}
    assert rooms <= set(MAY_IMPORT)


def test_architecture_shows_the_same_table() -> None:
    lines = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("| room |")[2].splitlines()[2:]
    shown = {}
    for line in lines[: lines.index("")]:
        rooms, allowed, _ = (cell.strip() for cell in line.strip("|").split("|"))
        for room in rooms.split(", "):
            shown[room] = set() if allowed == "nothing of ours" else set(allowed.split(", "))
    assert shown == {
        room: set(allowed.split()) - {"__init__"} for room, allowed in MAY_IMPORT.items() if room.strip("_") == room
    }


def test_rooms_import_each_other_in_one_direction() -> None:
    """The rooms can be put in an order in which each imports only from those before it."""
    edges = {
        room: {room_of(one) for one in allowed.split()} - {room, "__init__"} for room, allowed in MAY_IMPORT.items()
    }
    placed: set[str] = set()
    while ready := {room for room, below in edges.items() if room not in placed and below <= placed}:
        placed |= ready
    assert placed == set(MAY_IMPORT)


def test_modules_of_a_room_have_no_circles() -> None:
    edges = {
        name: {other for full in imports(tree) for other in prefixes(full)} - {name} for name, tree in SOURCES.items()
    }
    placed: set[str] = set()
    while ready := {name for name, below in edges.items() if name not in placed and below <= placed}:
        placed |= ready
    assert not set(SOURCES) - placed


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_in_its_room(library: str) -> None:
    users = {name for name, tree in SOURCES.items() if any(full.split(".")[0] == library for full in imports(tree))}
    assert all(any(covers(place, name) for place in ONLY_IN[library]) for name in users), users


def uses(tree: ast.AST, *, name: str = "", attribute: str = "") -> Iterator[str]:
    """Yield the functions ("" at a module's top) that read or import a name, or take an attribute."""
    for node in ast.walk(tree):
        imported = isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]
        read = isinstance(node, ast.Name) and node.id == name
        if imported or read or (isinstance(node, ast.Attribute) and node.attr == attribute):
            yield function_around(tree, node)


def function_around(tree: ast.AST, node: ast.AST) -> str:
    holders = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and node in ast.walk(one)]
    return holders[-1].name if holders else ""


def test_names_in_a_study_file_reach_code_by_the_registry_alone() -> None:
    readers = [name for name, tree in SOURCES.items() if list(uses(tree, name="entry_points"))]
    assert readers == ["tune_interpreg.registry"]


def test_test_data_is_read_by_judgments_alone() -> None:
    def where(**what: str) -> set[tuple[str, str]]:
        return {(name, function) for name, tree in SOURCES.items() for function in uses(tree, **what)}

    assert where(name="load_test", attribute="load_test") == {
        ("tune_interpreg.evaluation.judging", "judge"),
        ("tune_interpreg.data.dataset", "load_and_check"),  # which returns only their fingerprint and their number
    }
    images = {place for place in where(attribute="test") if place[0].startswith("tune_interpreg.")}
    assert images == {("tune_interpreg.data.dataset", "load_test")}
    judge = "tune_interpreg.evaluation.judging.judge"
    judges = {name for name, tree in SOURCES.items() if judge in imports(tree)}
    assert judges == {"trainables.base.trainable", "trainables.stages.judge"}


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_loads_no_torch_ray_or_optuna(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'ray', 'optuna'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
