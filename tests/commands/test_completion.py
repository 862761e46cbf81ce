"""Shell completion, by the script that a shell would install, in a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tune_interpreg import registry
from tune_interpreg.study.file import read as study_file

BASH = shutil.which("bash")
PROGRAM = str(Path(sys.executable).with_name("tune-interpreg"))

#: As bash does at a tab: words go to the function, which answers in COMPREPLY. $1 is the script, the rest the words.
TAB = """\
eval "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_tune_interpreg_completion "$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""

pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


@pytest.fixture(scope="module")
def script() -> str:
    """What ``--show-completion`` prints, without its guess at the shell that it is called from."""
    asked = os.environ | {"_TUNE_INTERPREG_COMPLETE": "source_bash"}
    shown = subprocess.run([PROGRAM], env=asked, capture_output=True, text=True, check=True)
    assert "complete -o default -F" in shown.stdout
    return shown.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two stores in ``runs``, a study file, and a folder that is no store."""
    for name in ("runs/digits", "runs/mine", "notes"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("runs/digits/study.yaml", "runs/mine/study.yaml", "mine.yaml"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ten"], ["tensorboard"]),
        (["run", ""], [*study_file.shipped(), "mine.yaml"]),
        (["validate", "mn"], ["mnist", "mnist-small"]),
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
