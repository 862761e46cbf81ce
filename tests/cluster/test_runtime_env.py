"""What is copied to other machines makes packages importable there, and their entry points found."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tune_interpreg.cluster import runtime_env
from tune_interpreg.study.config import Study

FOUND = """\
import json
from importlib.metadata import entry_points, version
found = {point.name: str(point.load()) for point in entry_points(group="tune_interpreg.methods")}
import trainables
print(json.dumps([version("tune-interpreg"), trainables.__file__, found]))
"""


def study(**own: object) -> Study:
    return Study.model_validate({"arms": {"a": {"method": "standard"}, "b": {"method": "standard + jacobian"}}} | own)


@pytest.fixture
def copied(tmp_path: Path) -> list[Path]:
    """This project's modules, each copied to a folder of its own, as Ray does."""
    modules = [
        Path(one) for one in runtime_env.collect_modules(runtime_env.study_packages(study()), tmp_path / "scratch")
    ]
    places = [tmp_path / "there" / str(number) for number in range(len(modules))]
    for module, place in zip(modules, places, strict=True):
        shutil.copytree(module, place / module.name, ignore=shutil.ignore_patterns(*runtime_env.EXCLUDED))
    return places


def test_this_project_travels_where_a_study_names_no_plugin() -> None:
    assert runtime_env.study_packages(study()) == ["tune-interpreg"]


def test_paths_are_absolute_and_there(tmp_path: Path) -> None:
    modules = runtime_env.collect_modules(["tune-interpreg"], tmp_path)
    assert {"tune_interpreg", "trainables"} < {Path(one).name for one in modules}
    assert all(Path(one).is_absolute() and Path(one).exists() for one in modules)


def test_copies_are_imported_and_their_entry_points_found(copied: list[Path], tmp_path: Path) -> None:
    """A Python without any installed package but what the copies import sees all methods, in the copies."""
    path = [*map(str, copied), *(one for one in sys.path if one.endswith("site-packages"))]
    code = f"import sys; sys.path[:0] = {path}\n{FOUND}"
    ran = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    version, place, found = json.loads(ran.stdout)
    assert place.startswith(str(tmp_path / "there"))
    assert version
    assert set(found) == {point.name for point in entry_points(group="tune_interpreg.methods")}


def test_no_bytecode_travels(copied: list[Path]) -> None:
    assert not [path for place in copied for path in place.rglob("*") if path.suffix == ".pyc"]
