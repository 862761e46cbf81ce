"""`run` as a user sees it: what it prints, where it logs, how it debugs, and how its output may be cut off."""

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.plugins import install_plugin

pytestmark = pytest.mark.ray  # whole studies, each in a process of its own

STUDY = """\
data: {name: digits, train_limit: 64, validation: 60, test_limit: 60}
training: {epochs: 1, batch_size: 32}
attack: {eps: 0.5, steps: 2}
evaluation: {steps: 2}
seeds: [0, 1]
checks: null
arms:
  standard: {method: standard}
"""
RAISING = """\
from trainables import MethodTrainable
class Raising(MethodTrainable):
    def terms(self, model, batch):
        surprise = 42
        raise ZeroDivisionError(f"batch of {len(batch.x_BCHW)}")
"""
POINT = "[tune_interpreg.methods]\nraising = lab_raising:Raising\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with markup and a space in its name, a study, and a plugin with a method that raises."""
    folder = tmp_path_factory.mktemp("a [b] c")
    (folder / "small.yaml").write_text(STUDY)
    (folder / "raising.yaml").write_text(STUDY.replace("method: standard", "method: raising"))
    install_plugin(folder / "site", "lab_raising", RAISING, POINT)
    return folder


def command(study: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "tune_interpreg", "run", study, "--cluster", "in-process", *options]


def run(folder: Path, study: str, *options: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(command(study, *options), cwd=folder, env=environment, capture_output=True)


@pytest.fixture(scope="module")
def finished(folder: Path) -> subprocess.CompletedProcess[bytes]:
    """A verbose run of the whole study into ``runs/exp[λ=0.1]``."""
    return run(folder, "small.yaml", "--store", "runs/exp[λ=0.1]", "-v")


# ------------------------------------------------------------------------ the end of a run
def test_the_end_fits_on_one_screen_and_its_lines_can_be_copied(
    folder: Path, finished: subprocess.CompletedProcess[bytes]
) -> None:
    assert finished.returncode == 0, finished.stderr
    again = run(folder, "small.yaml", "--store", "runs/exp[λ=0.1]", COLUMNS="80", PYTHONIOENCODING="ascii")
    lines = again.stdout.decode().splitlines()
    assert again.returncode == 0, again.stderr
    assert len(lines) < 50
    assert "Table 1" in again.stdout.decode()
    store = folder / "runs/exp[?=0.1]"  # a character that the encoding lacks is replaced
    assert ["tune-interpreg", "report", str(store)] in [shlex.split(line)[1:] for line in lines if line[:4] == "page"]
    paths = {line.split()[0]: shlex.split(line)[-1] for line in lines[-4:]}
    assert paths == {
        "tables": str(store / "report"),
        "page": str(store),
        "TensorBoard": str(store),
        "log": str(store / "run.log"),
    }
    assert (folder / "runs/exp[λ=0.1]" / "report" / "tables.md").exists()


def test_the_log_names_each_start_and_result(folder: Path, finished: subprocess.CompletedProcess[bytes]) -> None:
    log = (folder / "runs/exp[λ=0.1]" / "run.log").read_text()
    for seed in (0, 1):
        assert log.count(f"start standard: seed {seed}") == 1
        assert log.count(f"finish standard: seed {seed}") == 1
    for line in finished.stderr.decode().splitlines():
        assert line in log


# -------------------------------------------------------------------- output that is cut off
def test_a_closed_pipe_ends_a_run_quietly(folder: Path, finished: subprocess.CompletedProcess[bytes]) -> None:
    words = shlex.join(command("small.yaml", "--store", "runs/exp[λ=0.1]"))
    shell = ["bash", "-c", f"{words} | true; exit ${{PIPESTATUS[0]}}"]
    cut = subprocess.run(shell, cwd=folder, env=os.environ | {"PYTHONUNBUFFERED": "1"}, capture_output=True)
    assert cut.returncode == 141
    assert (cut.stdout, cut.stderr) == (b"", b"")


@pytest.mark.parametrize("words", [["status"], ["report"], ["guide", "options"]])
def test_a_closed_pipe_ends_other_commands_quietly(
    folder: Path, finished: subprocess.CompletedProcess[bytes], words: list[str]
) -> None:
    arguments = words if words[0] == "guide" else [*words, "runs/exp[λ=0.1]"]
    program = shlex.join([sys.executable, "-m", "tune_interpreg", *arguments])
    cut = subprocess.run(["bash", "-c", f"{program} | true; exit ${{PIPESTATUS[0]}}"], cwd=folder, capture_output=True)
    assert (cut.returncode, cut.stdout, cut.stderr) == (141, b"", b"")


# ------------------------------------------------------------------------------ debugging
def test_debug_raises_the_methods_own_exception_and_records_no_failure(folder: Path) -> None:
    raised = run(folder, "raising.yaml", "--store", "raised", "--debug")
    assert raised.returncode == 1
    assert raised.stderr.decode().splitlines()[-1] == "ZeroDivisionError: batch of 32"
    assert 'lab_raising.py", line 5, in terms' in raised.stderr.decode()
    assert not list((folder / "raised").glob("ledger/*/*"))


def test_without_debug_the_failure_is_recorded_and_logged(folder: Path) -> None:
    failed = run(folder, "raising.yaml", "--store", "failed", "--set", "seeds=[0]")
    assert failed.returncode == 1
    assert b"Traceback" not in failed.stdout + failed.stderr
    assert b"1 items failed; --retry-failed runs them again" in failed.stdout
    assert "ZeroDivisionError: batch of 32" in (folder / "failed" / "run.log").read_text()


def test_debug_opens_the_debugger_in_a_terminal(folder: Path) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "TERM": "dumb"}
    words = command("raising.yaml", "--store", "debugged", "--debug")
    process = subprocess.Popen(words, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    printed = b""
    while b"(Pdb) " not in printed:
        printed += os.read(ours, 4096)
    os.write(ours, b"p 'surprise', surprise\n")
    while b"('surprise', 42)" not in printed:
        printed += os.read(ours, 4096)
    os.write(ours, b"q\n")
    assert process.wait(timeout=30) == 1
    os.close(ours)
