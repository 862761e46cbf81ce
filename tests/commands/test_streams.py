"""Output to any terminal, file or pipe: no encoding, width or closed stream ends a command with a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.closed_form import drain, study

from tune_interpreg.store.store import Store

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a finished study with a character in its path that few encodings have."""
    store, whole = Store(tmp_path_factory.mktemp("λ") / "store"), study("adversarial")
    store.save_study(whole)
    drain(whole, store)
    return store


def call(
    *arguments: str, shell: str = "", folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own; shell: its redirections."""
    words = [sys.executable, "-m", "tune_interpreg", *arguments]
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *words]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PYTHONIOENCODING")}
    return subprocess.run(command, cwd=folder, env=environment | variables, capture_output=True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
def test_any_encoding_gets_what_it_can_show(store: Store, encoding: str) -> None:
    ran = call("report", str(store.path), PYTHONIOENCODING=encoding)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"Table 1" in ran.stdout
    assert "±" in (store.report_dir / "tables.md").read_text(encoding="utf-8")


def test_a_machine_readable_status_does_not_depend_on_the_encoding(store: Store) -> None:
    shown = [call("status", "--json", str(store.path), PYTHONIOENCODING=name).stdout for name in ("ascii", "utf-8")]
    assert {"adversarial"} <= {arm["name"] for arm in json.loads(shown[0])["arms"]}
    assert [arm["name"] for arm in json.loads(shown[0])["arms"]] == [
        arm["name"] for arm in json.loads(shown[1])["arms"]
    ]


@pytest.mark.ray
def test_a_job_script_does_not_depend_on_the_encoding(tmp_path: Path) -> None:
    arguments = ("launch", "slurm", "digits", "--store", "/shared/λ/ä")
    scripts = {call(*arguments, folder=tmp_path, PYTHONIOENCODING=name).stdout for name in ("ascii", "utf-8")}
    (script,) = scripts
    assert "/shared/λ/ä" in script.decode("utf-8")


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_no_error(store: Store, redirection: str) -> None:
    (store.report_dir / "rows.json").unlink(missing_ok=True)
    ran = call("report", str(store.path), shell=redirection)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert (store.report_dir / "rows.json").exists()


def test_a_message_to_a_closed_standard_error_lands_in_no_file(tmp_path: Path) -> None:
    ran = call("status", str(tmp_path), shell="2>&-")
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", ["0", "-5"])
def test_a_width_that_is_none_is_ignored(store: Store, width: str) -> None:
    ran = call("report", str(store.path), COLUMNS=width, TERM="dumb")
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"Table 1" in ran.stdout


@pytest.mark.parametrize("command", ["status", "report"])
def test_an_output_that_is_full_is_named(store: Store, command: str) -> None:
    ran = call(command, str(store.path), shell="> /dev/full")
    assert ran.returncode == 2
    assert ran.stderr.decode().splitlines() == ["error: the output cannot be written: No space left on device"]


# ---------------------------------------------------------------------- paths that are not UTF-8
@pytest.mark.ray
def test_a_path_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path / "d") + b"\xff")
    os.mkdir(folder)
    calls = [
        call("status", folder),
        call("run", "digits", folder=Path(folder)),
        call("run", "mnist", "--store", folder),
    ]
    calls += [call("validate", "mnist", "--data-root", folder)]
    for ran in calls:
        assert ran.returncode == 2
        (message,) = ran.stderr.decode().splitlines()
        assert message.startswith("error: ")
        assert "not UTF-8" in message
    assert os.listdir(folder) == []


@pytest.mark.ray
def test_a_variable_of_ray_that_would_crash_it_is_refused(tmp_path: Path) -> None:
    ran = call("run", "digits", folder=tmp_path, RAY_health_check_period_ms="soon")
    assert ran.returncode == 2
    assert ran.stderr.decode().splitlines() == [
        "error: RAY_health_check_period_ms: takes a number, got 'soon'; unset it"
    ]
    assert not list(tmp_path.iterdir())
