"""The command line teaches, refuses bad input with one message and exit code 2, and then writes nothing."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tune_interpreg import __version__
from tune_interpreg.cli import app
from tune_interpreg.store.store import Store
from tune_interpreg.study.file import read as study_file

TINY = "data: {name: digits, train_limit: 64}\narms:\n  standard: {method: standard}\n"
BROKEN = "data: mnits\narms:\n  a: {method: jacobian, phi: 1.0}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def told(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def refused(*arguments: str) -> str:
    """The message of a command that refuses its input; it is all there is, and the folder stays as it was."""
    before = {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")}
    result = told(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert "Traceback" not in result.stderr
    assert {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")} == before
    return re.sub(r"[\s│]+", " ", result.stderr).strip()


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


# ------------------------------------------------------------------------ teaching
@pytest.mark.parametrize("command", ["run", "plan", "validate"])
def test_help_of_commands_on_a_study_says_what_it_may_be_and_shows_an_example(command: str) -> None:
    shown = told(command, "--help")
    assert shown.exit_code == 0
    text = re.sub(r"[\s│]+", " ", shown.stdout)
    assert all(name in text.replace("- ", "-") for name in study_file.shipped())
    for taught in (
        "path to a YAML file",
        f"Example: tune-interpreg {command} ",
        "--set",
        "training.epochs=2",
        "Exit codes",
    ):
        assert taught in text


def test_help_of_run_says_where_it_runs_and_that_it_goes_on() -> None:
    text = re.sub(r"[\s│]+", " ", told("run", "--help").stdout)
    for taught in ("runs/NAME", "run it again", "in-process", "HOST:PORT", "--retry-failed", "130 interrupted"):
        assert taught in text


def test_help_of_run_says_how_to_protect_a_cluster() -> None:
    text = re.sub(r"[\s│]+", " ", told("run", "--help").stdout)
    for taught in ("ray get-auth-token --generate", "~/.ray/auth_token", "RAY_AUTH_MODE=token"):
        assert taught in text


def test_help_of_report_shows_an_example() -> None:
    text = told("report", "--help").stdout
    assert "tune-interpreg report runs/digits" in text
    assert "Exit codes" in text


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_commands_name_leads_to_all_commands(arguments: list[str]) -> None:
    text = told(*arguments).output
    assert all(taught in text for taught in ("run", "report", "validate", "tune-interpreg run digits", "Exit codes"))


def test_the_version_is_printed() -> None:
    assert told("--version").stdout == f"tune-interpreg {__version__}\n"


def test_help_is_quick_for_it_loads_no_library_of_training() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom tune_interpreg.cli import app\n"
        "for command in ([], ['run'], ['status'], ['report'], ['validate'], ['spaces'], ['init'], ['tensorboard'], "
        "['dashboard'], ['launch', 'slurm']):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "print(*{'torch', 'ray', 'optuna', 'numpy', 'pandas', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    ran = process("-c", code)
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr


# ---------------------------------------------------------------------- validating
def test_validate_says_what_a_sound_study_holds(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(TINY)
    result = told("validate", "tiny.yaml", "--set", "seeds=[0, 1]")
    assert (result.exit_code, result.stderr) == (0, "")
    untried = "its data are looked for by plan and run, or here with --data-root"
    assert result.stdout == f"tiny: valid; 1 arms (standard), 2 seeds; {untried}\n"
    assert told("validate", "tiny.yaml", "--data-root", ".").stdout == "tiny: valid; 1 arms (standard), 5 seeds\n"
    assert [path.name for path in folder.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("command", ["run", "plan", "validate"])
def test_a_broken_study_is_refused_with_all_its_problems(folder: Path, command: str) -> None:
    (folder / "broken.yaml").write_text(BROKEN)
    assert refused(command, "broken.yaml", "--set", "training.epochs=0") == (
        "error: --set training.epochs=0: training.epochs: takes a number of at least 1, got 0 "
        'broken.yaml:1: data: unknown dataset "mnits"; did you mean mnist? '
        "broken.yaml:3: arms.a.phi: unknown parameter; method jacobian takes lambda_j, norm, output, dropout "
        "broken.yaml:3: arms.a: method jacobian needs lambda_j: "
        "give a value, or search it (strength λ_J of the penalty)"
    )


def test_the_command_itself_refuses_with_exit_code_2_and_no_traceback(folder: Path) -> None:
    (folder / "broken.yaml").write_text(BROKEN)
    ran = process("-m", "tune_interpreg", "run", "broken.yaml")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: broken.yaml:1: data: ")
    assert len(ran.stderr.splitlines()) == 3
    assert [path.name for path in folder.iterdir()] == ["broken.yaml"]


def test_a_study_that_is_not_there_is_refused() -> None:
    assert refused("run", "mnits").endswith(f"({', '.join(study_file.shipped())}); did you mean mnist?")
    assert refused("validate", ".").startswith("error: .: is a folder: give a YAML file, or ")


@pytest.mark.parametrize("arguments", [["run"], ["run", "digits", "--bogus"], ["walk"], ["report"]])
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    assert "Usage: " in refused(*arguments)


@pytest.mark.parametrize("where", ["nowhere", "ray://head:10001"])
def test_a_place_to_run_is_checked_before_anything_is_read(where: str) -> None:
    said = refused("run", "digits", "--cluster", where)
    assert f"takes local, in-process, auto, or HOST:PORT of a running cluster, got '{where}'" in said


# ----------------------------------------------------------------- data and stores
def test_what_does_not_fit_the_data_is_refused_with_its_line(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(TINY + "model: cifar_cnn\n")
    assert "error: tiny.yaml:4: model: cifar_cnn does not take" in refused("run", "tiny.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.batch_size=65", "training.batch_size: a batch takes 65 images, but there are 64 to train on; lower"),
        ("data.train_limit=99999", "data.train_limit: 1,197 images are left"),
        ("data.test_limit=99999", "data.test_limit: there are 360 test images, got 99,999"),
        ("model=cifar_cnn", "model: cifar_cnn does not take images of shape (1, 8, 8)"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(folder: Path, override: str, said: str) -> None:
    (folder / "tiny.yaml").write_text(TINY)
    assert said in refused("run", "tiny.yaml", "--set", override)


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize("root", ["nowhere", "with #hash", "with: colon", "with 'quote\"", "{brace"])
def test_a_missing_data_folder_is_named_as_given(folder: Path, root: str, command: str) -> None:
    said = refused(command, "mnist", "--data-root", root)
    where = f"--data-root {root}: data.root"
    assert said == f"error: {where}: must be an existing folder, got {folder / root}; mend --data-root or drop it"


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize("data", [(), ("--set", "data.name=image_folder")])
def test_a_data_folder_without_the_files_is_refused(data: tuple[str, ...], command: str) -> None:
    said = refused(command, "mnist-small", "--data-root", ".", *data)
    assert "lacks train-images-idx3-ubyte" in said or "lacks train and test; mend it or --data-root" in said


def test_a_store_of_another_study_is_refused_with_what_differs(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(TINY)
    Store("runs/tiny").save_study(study_file.load("tiny.yaml", ["attack.eps=0.5"]))
    said = refused("run", "tiny.yaml")
    assert "was made by another study: attack.eps is 0.5 there, 1.5 here" in said
    assert "Name another folder with --store, or restore the setting" in said


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("file", "is no store and not empty; name an empty folder with --store"),
        ("full", "is no store and not empty; name an empty folder with --store"),
        ("file/below", "cannot be written (Not a directory); name another folder with --store"),
    ],
)
def test_a_folder_that_cannot_be_a_store_is_refused(folder: Path, store: str, said: str) -> None:
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "file").write_text("")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("")
    assert refused("run", "tiny.yaml", "--store", store) == f"error: {folder / store}: {said}"


def test_a_damaged_record_is_named_and_left_out_of_the_report(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(TINY)
    store = Store("runs/tiny")
    store.save_study(study_file.load("tiny.yaml", ["seeds=[0]"]))
    store.write_text(store.record_file("standard", "0" * 16), "{")
    result = told("report", "runs/tiny")
    assert result.exit_code == 0
    path = store.record_file("standard", "0" * 16)
    assert f"{path}: is damaged: it is no JSON" in result.stdout.replace("\n", " ")
    assert path.read_text() == "{"


@pytest.mark.parametrize("content", [b"", b"arms: [", b"arms: {a: {method: 1}}", b"\xff"])
def test_a_report_of_a_damaged_study_is_refused_in_one_line(folder: Path, content: bytes) -> None:
    store = Store("runs/tiny")
    store.write_bytes(store.study_file, content)
    said = refused("report", "runs/tiny")
    assert said.startswith(f"error: {store.study_file}: cannot be read as a study: is damaged: ")
    assert said.endswith("; `run` makes it anew")


def test_a_report_of_what_is_no_store_is_refused(folder: Path) -> None:
    assert refused("report", "nowhere") == (
        f"error: {folder / 'nowhere'}: is no store (it has no study.yaml); `run` makes one"
    )
