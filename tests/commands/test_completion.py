"""Check shell completion in bash, with the script that a shell installs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tune_interpreg import registry
from tune_interpreg.study.file.read import list_shipped_studies

BASH = shutil.which("bash")
PROGRAM = str(Path(sys.executable).with_name("tune-interpreg"))

#: What bash does at a tab: it calls the function, which answers in COMPREPLY. $1 is the script, the rest are words.
TAB = """\
eval "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_tune_interpreg_completion "$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(BASH is None, reason="needs bash")]


@pytest.fixture(scope="module")
def script() -> str:
    """Return what ``--show-completion`` prints, without its guess at the calling shell."""
    environment = os.environ | {"_TUNE_INTERPREG_COMPLETE": "source_bash"}
    ran = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert "complete -o default -F" in ran.stdout
    return ran.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two stores in ``runs``, a study file, and a folder that is no store."""
    for name in ("runs/digits", "runs/mine", "notes"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("runs/digits/study.yaml", "runs/mine/study.yaml", "mine.yaml"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ten"], ["tensorboard"]),
        (["run", ""], [*list_shipped_studies(), "mine.yaml"]),
        (["validate", "mn"], ["mnist", "mnist-cpu", "mnist-small"]),
        (["report", ""], ["runs/digits", "runs/mine"]),
        (["tensorboard", "runs/d"], ["runs/digits"]),
        (["dashboard", "notes"], [""]),
        (["init", ""], registry.names("datasets")),
        (["run", "digits", "--retry"], ["--retry-failed"]),
    ],
)
def test_a_tab_offers_what_fits(words: list[str], offered: list[str], script: str, folder: Path) -> None:
    ran = subprocess.run(
        [str(BASH), "-c", TAB, "bash", script, PROGRAM, *words], cwd=folder, capture_output=True, text=True
    )
    assert (ran.stdout.splitlines(), ran.stderr) == (offered, "")
