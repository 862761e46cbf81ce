"""Commands print names, paths and messages exactly: no markup is read, and what can be copied is quoted for a shell."""

import shlex
from pathlib import Path

import pytest
from helpers.cli import output, refusal
from helpers.closed_form import drain, study, worker

from tune_interpreg.commands.shared import console
from tune_interpreg.status.observer import Observer
from tune_interpreg.status.text import tree
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Item, Job

TITLE = "[bold]x[/bold] :smile: [/]"
ERROR = "KeyError: [red]'a'[/red]"
NAMES = ["exp[lr=0.1] a", "[red]", "$a'b", "~", "two\nlines", "-x"]


def answer(job: Job, item: Item) -> Record:
    return ledger.make_record(job, item, "failed", error=ERROR) if job.arm == "broken" else worker(job, item)


@pytest.fixture(params=NAMES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of a study with markup in a title and in an error. Its name is special to a shell or to rich."""
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / request.param)
    whole = study(
        "standard", broken="{method: adversarial}", titled=f"{{method: standard, title: {shlex.quote(TITLE)}}}"
    )
    store.save_study(whole)
    drain(whole, store, answer)
    return store


def test_a_report_prints_titles_errors_and_paths(store: Store) -> None:
    text = output("report", str(store.path))
    assert TITLE in text
    assert ERROR in text
    start = text.index(shlex.quote(str(store.report_dir / "tables.md")))
    paths = shlex.split(text[start:])
    assert len(paths) == 6
    assert all(Path(path).is_file() for path in paths)


def test_a_status_prints_errors(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert ERROR in output("status", str(store.path))
    screen = console()
    screen.print(tree(Observer(store).read_status(), screen.width))
    screen.print(TITLE)
    printed = capsys.readouterr().out
    assert ERROR in printed
    assert printed.endswith(f"{TITLE}\n")


@pytest.mark.parametrize("name", NAMES)
def test_init_prints_lines_that_can_be_copied(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = output("init", "digits", f"--output={name}.yaml")
    path, *words = shlex.split(printed.replace(";", " ").replace(")", ""))
    assert words == ["(check", "it:", "tune-interpreg", "validate", path, "run", "it:", "tune-interpreg", "run", path]
    assert not path.startswith("-")  # an option
    assert (tmp_path / f"{name}.yaml").samefile(path)


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("command", ["validate", "run", "plan", "status", "report", "tensorboard", "dashboard"])
def test_a_refusal_names_the_input(name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name in refusal(command, name)


def test_a_refused_option_is_named() -> None:
    assert "got 'a[red]b'" in refusal("run", "digits", "--cluster", "a[red]b")
    assert "--set arms.[bold]x=1: arms" in refusal("validate", "digits", "--set", "arms.[bold]x=1")
