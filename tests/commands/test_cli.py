"""The command line explains itself, and refuses bad input with one message, exit code 2 and no file written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import cli
from helpers.plugins import install_plugin, installed

from tune_interpreg import __version__
from tune_interpreg.store.store import Store
from tune_interpreg.study.file.read import list_shipped_studies, read_study_file

TINY = "data: {name: digits, train_limit: 64}\narms:\n  standard: {method: standard}\n"
BROKEN = "data: mnits\narms:\n  a: {method: jacobian, phi: 1.0}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a sound and a broken study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "broken.yaml").write_text(BROKEN)
    return tmp_path


def refusal(*arguments: str) -> str:
    """Return the message of a command that refuses its input, and check that no file changed."""
    before = {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")}
    message = cli.refusal(*arguments)
    assert {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")} == before
    return message


# ------------------------------------------------------------------------------- help
@pytest.mark.parametrize("command", ["run", "plan", "validate"])
def test_help_of_commands_on_a_study_lists_the_shipped_studies_and_shows_an_example(command: str) -> None:
    text = re.sub(r"[\s│]+", " ", cli.output(command, "--help"))
    assert all(name in text.replace("- ", "-") for name in list_shipped_studies())
    for part in ("path to a YAML file", f"Example: tune-interpreg {command} ", "--set", "Exit codes"):
        assert part in text


def test_help_of_run_explains_places_resumption_and_protection() -> None:
    text = re.sub(r"[\s│]+", " ", cli.output("run", "--help"))
    for part in ("runs/NAME", "run it again", "in-process", "HOST:PORT", "--retry-failed", "--debug", "-v", "130"):
        assert part in text
    assert all(part in text for part in ("ray get-auth-token --generate", "~/.ray/auth_token", "RAY_AUTH_MODE=token"))


def test_without_a_command_all_commands_are_listed() -> None:
    text = cli.call().output
    assert all(part in text for part in ("run", "report", "validate", "tune-interpreg run digits", "Exit codes"))
    assert cli.output("--version") == f"tune-interpreg {__version__}\n"


def test_help_is_quick_because_it_loads_no_library_of_training() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom tune_interpreg.cli import app\n"
        "for command in ([], ['run'], ['status'], ['report'], ['compare'], ['validate'], ['spaces'], ['init'], "
        "['export'], ['tensorboard'], ['dashboard'], ['launch', 'slurm']):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "print(*{'torch', 'ray', 'optuna', 'numpy', 'pandas', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr


# ---------------------------------------------------------------------------- studies
def test_validate_names_what_a_sound_study_holds(folder: Path) -> None:
    before = list(folder.iterdir())
    gradients = "model digits_cnn, gradients at the images: exact adjoint\n"
    valid = f"{gradients}tiny: valid; 1 arms (standard), 5 seeds\n"
    assert cli.output("validate", "tiny.yaml", "--data-root", ".") == valid
    assert "1 arms (standard), 2 seeds" in cli.output("validate", "tiny.yaml", "--set", "seeds=[0, 1]")
    assert list(folder.iterdir()) == before


@pytest.mark.parametrize("command", ["run", "plan", "validate"])
def test_a_broken_study_is_refused_with_all_its_problems(command: str) -> None:
    message = refusal(command, "broken.yaml", "--set", "training.epochs=0")
    places = ["--set training.epochs=0: training.epochs", "broken.yaml:1: data", "broken.yaml:3: arms.a.phi"]
    assert re.findall("|".join(map(re.escape, places)), message) == places
    assert "did you mean mnist?" in message
    assert "method jacobian needs lambda_j" in message


def test_a_study_that_does_not_exist_is_refused() -> None:
    assert refusal("run", "mnits").endswith("did you mean mnist?")
    assert "Is a directory" in refusal("validate", ".")


@pytest.mark.parametrize("command", ["run", "status", "init", "prune"])
def test_help_shows_that_flags_take_no_value(command: str) -> None:
    rows = [line for line in cli.output(command, "--help").splitlines() if "<bool>" in line]
    assert all("--help" in row for row in rows)  # which is not ours


@pytest.mark.parametrize("arguments", [["run"], ["run", "digits", "--bogus"], ["walk"], ["report"]])
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    assert "Usage: " in refusal(*arguments)


@pytest.mark.parametrize("where", ["nowhere", "ray://head:10001"])
def test_a_place_to_run_is_checked_before_anything_is_read(where: str) -> None:
    assert f"got '{where}'" in refusal("run", "digits", "--cluster", where)


# ----------------------------------------------------------------- data and stores
@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("training.batch_size=65", "training.batch_size: a batch takes 65 images, but there are 64 to train on"),
        ("data.train_limit=99999", "data.train_limit: 1,197 images are left"),
        ("data.test_limit=99999", "data.test_limit: there are 360 test images, got 99,999"),
        (
            "model=cifar_cnn",
            "model: cifar_cnn fails with images of shape (1, 8, 8): ValueError: the images are too small",
        ),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(override: str, part: str) -> None:
    assert part in refusal("run", "tiny.yaml", "--set", override)


@pytest.mark.parametrize("override", ["data.test_limit=999", "evaluation.attacks=[{autoattack: 999}]"])
def test_validate_knows_the_number_of_test_images(override: str) -> None:
    assert "test images, got 999; lower it or drop it" in refusal("validate", "tiny.yaml", "--set", override)


@pytest.mark.parametrize("command", ["run", "plan", "validate"])
def test_an_exception_of_a_users_network_is_one_line_with_its_place(command: str, tmp_path: Path) -> None:
    """``run --debug`` raises it."""
    source = "def net(shape, classes):\n    assert shape[0] == 3, 'colour\\nimages only'\n"
    module = f"nets_for_{command}"
    site = install_plugin(tmp_path / "site", module, source, f"[tune_interpreg.models]\ncolour = {module}:net\n")
    with installed(site):
        message = cli.refusal(command, "tiny.yaml", "--set", "model=colour")
        reason = "colour fails with images of shape (1, 8, 8): AssertionError: colour images only"
        assert f"--set model=colour: model: {reason} ({site / module}.py:2)" in message
        if command == "run":
            assert isinstance(
                cli.call("run", "tiny.yaml", "--set", "model=colour", "--debug").exception, AssertionError
            )
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize("root", ["nowhere", "with #hash", "with: colon", "with 'quote\""])
def test_a_missing_data_folder_is_named_exactly(folder: Path, root: str, command: str) -> None:
    message = refusal(command, "mnist", "--data-root", root)
    rule = f"data.root: must be an existing folder, got {folder / root} (No such file or directory); "
    assert message.startswith(f"error: --data-root {root}: {rule}")


@pytest.mark.parametrize(
    ("data", "missing"), [("mnist", "lacks train-images-idx3-ubyte"), ("image_folder", "lacks train and test")]
)
def test_a_data_folder_without_the_files_is_refused(data: str, missing: str) -> None:
    assert missing in refusal("run", "mnist-small", "--data-root", ".", "--set", f"data.name={data}")


def test_a_store_of_another_study_is_refused_with_the_difference() -> None:
    Store("runs/tiny").save_study(read_study_file("tiny.yaml", ["attack.eps=0.5"]).study)
    message = refusal("run", "tiny.yaml")
    assert "attack.eps is 0.5 there, 1.5 here" in message
    assert "--store" in message


@pytest.mark.parametrize(
    ("store", "reason"), [("file", "is no store"), ("full", "is no store"), ("file/below", "Not a directory")]
)
def test_a_folder_that_cannot_be_a_store_is_refused(folder: Path, store: str, reason: str) -> None:
    (folder / "file").write_text("")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("")
    message = refusal("run", "tiny.yaml", "--store", store)
    assert message.startswith(f"error: {folder / store}: ")
    assert reason in message
    assert "--store" in message


# ---------------------------------------------------------------------------- reports
@pytest.mark.parametrize("content", [b"", b"arms: [", b"arms: {a: {method: 1}}", b"\xff"])
def test_a_report_of_a_damaged_study_is_refused_in_one_line(content: bytes) -> None:
    store = Store("runs/tiny")
    store.write_bytes(store.study_file, content)
    message = refusal("report", "runs/tiny")
    assert message.startswith(f"error: {store.study_file}: cannot be read as a study: is damaged: ")
    assert "run again" in message


def test_a_report_of_another_folder_is_refused(folder: Path) -> None:
    assert refusal("report", "nowhere").startswith(f"error: {folder / 'nowhere'}: is no store (it has no study.yaml)")
