"""Who may import whom: the rules of the layers, read off the sources."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tune_interpreg", "trainables", "analysis", "search_spaces")

#: Modules of tune_interpreg, bottom first: each may import those of the lines above its own. A folder is one module.
LAYERS = """
    __init__ guides launching
    fields registry seeding stopping storage collecting gpu capture
    space options integrity pulse lean memory transposes
    config
    items checks augmentation
    layout
    store yaml_file
    study_file ledger data layers lock places
    vetting drafts
    models balls
    datasets attacks saliency penalties divergence
    image_folder training evaluation tensorboard_log root_posterior signs
    autoattack subject
    objective matching honesty
    target
    matches pareto
    outcome graph display inputs
    choice stages accounting
    search progress branches
    live status
    dispatch connection travel overview
    nodes
    tuning reports
    cluster
    running
    planning
    commands
    cli
    __main__
"""
RANKS = {name: rank for rank, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


def name_of(path: Path) -> str:
    """``tune_interpreg.store`` of its file; a package's ``__init__`` keeps its name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


SOURCES = {
    name_of(path): ast.parse(path.read_text()) for one in PACKAGES for path in sorted((ROOT / one).rglob("*.py"))
}


def imports(tree: ast.AST) -> Iterator[str]:
    """All that a source imports, wherever it stands, by full name; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of(package: str) -> dict[str, set[str]]:
    """What each module of a package imports."""
    return {name: set(imports(tree)) for name, tree in SOURCES.items() if name.split(".")[0] == package}


def importers_of(library: str) -> set[str]:
    return {name for name, tree in SOURCES.items() if any(one.split(".")[0] == library for one in imports(tree))}


def own_modules(imported: set[str]) -> set[str]:
    """The modules of tune_interpreg among what is imported; a name of a package counts as its ``__init__``."""
    parts = [one.split(".") for one in imported if one.split(".")[0] == "tune_interpreg"]
    modules = {name.split(".")[1] for name in modules_of("tune_interpreg")}
    return {one[1] if len(one) > 1 and one[1] in modules else "__init__" for one in parts}


def uses(tree: ast.AST, *, name: str = "", attribute: str = "") -> Iterator[str]:
    """The functions ("" at a module's top) in whose bodies a name is read or imported, or an attribute is taken."""
    for node in ast.walk(tree):
        imported = isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]
        read = isinstance(node, ast.Name) and node.id == name
        if imported or read or (isinstance(node, ast.Attribute) and node.attr == attribute):
            yield function_around(tree, node)


def function_around(tree: ast.AST, node: ast.AST) -> str:
    holders = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and node in ast.walk(one)]
    return holders[-1].name if holders else ""


def test_the_engine_imports_neither_methods_nor_analysis() -> None:
    for name, imported in modules_of("tune_interpreg").items():
        assert not {one.split(".")[0] for one in imported} & {"trainables", "analysis"}, name


def test_every_module_of_the_engine_has_its_layer() -> None:
    assert set(RANKS) == {name.split(".")[1] for name in modules_of("tune_interpreg")}


@pytest.mark.parametrize("module", RANKS)
def test_layers_import_downward_only(module: str) -> None:
    below = {name for name, rank in RANKS.items() if rank < RANKS[module]}
    parts = {name: one for name, one in modules_of("tune_interpreg").items() if name.split(".")[1] == module}
    for name, imported in parts.items():
        assert own_modules(imported) <= below | ({module} if name.count(".") > 1 else set()), name


def test_methods_do_not_import_analysis_nor_what_runs_them() -> None:
    for name, imported in modules_of("trainables").items():
        assert "analysis" not in {one.split(".")[0] for one in imported}, name
        assert all(RANKS[one] < RANKS["choice"] for one in own_modules(imported)), name


def test_analysis_knows_only_the_configuration_and_the_store() -> None:
    for name, imported in modules_of("analysis").items():
        assert own_modules(imported) <= {"config", "store", "items", "ledger"}, name
        assert not {one.split(".")[0] for one in imported} & {"torch", "ray", "optuna", "trainables"}, name


def test_ray_is_imported_only_where_trials_are_run() -> None:
    assert {name for name in importers_of("ray") if not name.startswith("trainables.")} == {
        "tune_interpreg.connection",
        "tune_interpreg.nodes",
        "tune_interpreg.tuning",
        "tune_interpreg.cluster",
    }


def test_optuna_is_imported_only_in_the_search() -> None:
    assert importers_of("optuna") == {"tune_interpreg.search", "tune_interpreg.lean", "tune_interpreg.matching"}


def test_matplotlib_is_imported_only_in_figures() -> None:
    assert all(name.startswith("analysis.") for name in importers_of("matplotlib"))


def test_names_in_a_study_file_reach_code_by_the_registry_alone() -> None:
    readers = [name for name, tree in SOURCES.items() if list(uses(tree, name="entry_points"))]
    assert readers == ["tune_interpreg.registry"]
    for name in modules_of("tune_interpreg"):
        constants = [node.value for node in ast.walk(SOURCES[name]) if isinstance(node, ast.Constant)]
        texts = [value for value in constants if isinstance(value, str)]
        assert not [text for text in texts if text.split(".")[0] in ("trainables", "analysis")], name


def test_test_data_is_read_by_the_final_evaluation_alone() -> None:
    def where(**what: str) -> set[tuple[str, str]]:
        return {(name, function) for name, tree in SOURCES.items() for function in uses(tree, **what)}

    assert where(name="load_test", attribute="load_test") == {("tune_interpreg.objective", "final")}
    images = {place for place in where(attribute="test") if place[0].startswith("tune_interpreg.")}
    assert images == {("tune_interpreg.data", "load_test")}
    assert {name for name, _ in where(name="final", attribute="final")} == {"trainables.base"}


@pytest.mark.parametrize(
    "module", ["analysis.report", "tune_interpreg.study_file", "tune_interpreg.store", "tune_interpreg.status.observer"]
)
def test_what_needs_no_training_loads_no_torch_and_no_ray(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'ray', 'optuna'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
