"""A user's modules with the names of this project's packages do not stand in their way, nor these in theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.closed_form import drain, study

from tune_interpreg.store.store import Store

NOTEBOOK = """
import sys, tune_interpreg
if sys.argv[2] == "first":
    import analysis
print(len(tune_interpreg.results(sys.argv[1])))
import analysis, trainables
print(analysis.OWNER, trainables.OWNER)
print(len(tune_interpreg.results(sys.argv[1])))
import analysis as again
print(again is analysis, analysis.OWNER)
"""

STUDY = """\
data: {name: digits, train_limit: 64, validation: 60, test_limit: 60}
training: {epochs: 1, batch_size: 32}
attack: {eps: 0.5, steps: 1}
evaluation: {steps: 1}
seeds: [0]
checks: null
arms:
  standard: {method: standard}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with modules and packages of the user."""
    (tmp_path / "analysis.py").write_text("OWNER = 'user'\n")
    for name in ("trainables", "search_spaces", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'user'\n")
    return tmp_path


def python(folder: Path, *words: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("order", ["first", "later"])
def test_a_notebook_uses_its_own_modules_and_the_results(folder: Path, order: str) -> None:
    """It may import its own ``analysis`` before it reads the results, or after."""
    store, whole = Store(folder / "store"), study("adversarial")
    store.save_study(whole)
    drain(whole, store)
    (folder / "notebook.py").write_text(NOTEBOOK)
    first, owners, second, same = python(folder, "notebook.py", str(store.path), order).splitlines()
    assert int(first) == int(second) > 0
    assert owners == "user user"
    assert same == "True user"


def test_without_modules_of_the_user_the_names_stay_as_they_are(tmp_path: Path) -> None:
    code = "import sys, analysis; from tune_interpreg import packages\nwith packages.visible(): pass\n"
    code += "import analysis.paper as paper; print(paper is sys.modules['analysis.paper'], len(sys.meta_path))"
    before = python(tmp_path, "-c", "import sys, analysis; print(len(sys.meta_path))").split()
    assert python(tmp_path, "-c", code).split() == ["True", *before]


@pytest.mark.ray
def test_a_run_next_to_modules_of_the_user_finds_its_own_on_the_driver_and_on_workers(folder: Path) -> None:
    (folder / "small.yaml").write_text(STUDY)
    printed = python(folder, "-m", "tune_interpreg", "run", "small.yaml", "--store", "store")
    assert "1 of 1 repeats done" in printed
    assert "Table 1" in printed
