"""What is shipped: a wheel and a sdist that install, with the command, the study files and the types."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import tune_interpreg
from tune_interpreg import guides
from tune_interpreg.study.file.read import list_shipped_studies

ROOT = Path(__file__).parents[1]
DATA = {
    *(f"search_spaces/{name}.yaml" for name in list_shipped_studies()),
    *(f"tune_interpreg/guides/{name}.md" for name in guides.NAMES),
    "tune_interpreg/guides/notebook.ipynb",
    *(f"{package}/py.typed" for package in ("tune_interpreg", "trainables", "analysis")),
    *(f"analysis/page/{name}" for name in ("template.html", "page.css", "page.js")),
}
SOURCES = {
    str(path.relative_to(ROOT))
    for package in ("tune_interpreg", "trainables", "analysis", "search_spaces")
    for path in (ROOT / package).rglob("*.py")
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, and the wheel that is built of it alone."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, "sdist", folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    build(folder / sdist.name.removesuffix(".tar.gz"), "wheel", folder)
    (wheel,) = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def build(source: Path, kind: str, folder: Path) -> None:
    """As ``python -m build`` does, with the setuptools of the environment."""
    code = f"import setuptools.build_meta as backend; backend.build_{kind}({str(folder)!r})"
    ran = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_the_wheel_holds_every_module_every_data_file_and_the_licence(built: dict[str, Path]) -> None:
    held = set(zipfile.ZipFile(built["wheel"]).namelist())
    assert held >= SOURCES | DATA
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {
        "tune_interpreg",
        "trainables",
        "analysis",
        "search_spaces",
    }
    assert any(name.endswith("licenses/LICENSE") for name in held)


@pytest.mark.slow
def test_the_wheel_runs_a_study_in_an_environment_of_its_own(built: dict[str, Path], tmp_path: Path) -> None:
    """What it depends on is taken from this environment; the project itself is the wheel's."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check"]
    python = tmp_path / "venv" / "bin" / "python"
    installed = subprocess.run(
        [*pip[:3], "--python", str(python), *pip[3:], str(built["wheel"])], capture_output=True, text=True
    )
    assert installed.returncode == 0, installed.stderr
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    where = "import tune_interpreg, trainables; print(tune_interpreg.__file__, trainables.__file__)"
    places = run([str(python), "-c", where], tmp_path).split()
    assert all(Path(place).is_relative_to(site) for place in places)
    command = str(python.with_name("tune-interpreg"))
    assert run([command, "--version"], tmp_path).split() == ["tune-interpreg", tune_interpreg.__version__]
    small = ["training.epochs=1", "seeds=[0, 1]", "checks=null", "arms={standard: {method: standard}}"]
    overrides = [word for one in small for word in ("--set", one)]
    printed = run([command, "run", "digits", "--cluster", "in-process", *overrides], tmp_path)
    assert "2 of 2 repeats done" in printed


def run(command: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_citation_and_changelog_are_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == tune_interpreg.__version__
    assert cited["cff-version"] == "1.2.0"
    assert {"title", "authors", "message"} <= cited.keys()
    assert f"## {tune_interpreg.__version__}" in (ROOT / "CHANGELOG.md").read_text()
