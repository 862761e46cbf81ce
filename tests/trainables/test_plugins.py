"""A user's own method, model and data set, of a package of their own: the README's, as pip installs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tune_interpreg.store.store import Record

HEADING = "## Your own method, model and data\n"
README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = HEADING + README.partition(HEADING)[2].partition("\n## ")[0]

#: A package whose author removed a module and forgot its entry point.
STALE = """\
project.name = "stale-lab"
project.version = "1.0"
project.entry-points."tune_interpreg.methods".stale = "stale_lab.gone:StaleTrainable"
"""
WRONG = """\
data: {name: stripes, colours: 3}
model: {name: mlp, width: wide}
arms:
  negative: {method: sparse, strength: -1}
  misspelt: {method: sparse, strenth: 0.1}
  bare: {method: sparse + jacobian, lambda_j: 0.01}
  unknown: {method: sprase}
  broken: {method: stale}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which pip has installed the README's package, and a stale one beside it.

    Pip finds it as a user's folder is after a while: with a store of results, and the README's other script.
    """
    lab, stale, site = (tmp_path_factory.mktemp(name) for name in ("lab", "stale", "site"))
    for name, text in re.findall(r"```\w+ (\S+)\n(.*?)```", SECTION, flags=re.DOTALL):
        (lab / name).write_text(text)
    (lab / "runs" / "first").mkdir(parents=True)
    (lab / "notebook.py").touch()
    (stale / "pyproject.toml").write_text(STALE)
    (stale / "stale_lab.py").write_text("")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    pip = python("-m", "pip", "install", *offline, "--target", str(site), str(lab), str(stale), cwd=lab)
    assert pip.returncode == 0, pip.stdout + pip.stderr
    return site


@pytest.fixture(scope="module")
def ran(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], str, str]:
    """The records, output and errors of a study of all three, run on a local Ray."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(study())
    ran = command("run", "study.yaml", "--store", "store", cwd=folder, site=site)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    records = [json.loads(path.read_text()) for path in (folder / "store").glob("ledger/*/*.json")]
    return records, ran.stdout, ran.stderr


@pytest.fixture(scope="module")
def told(site: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines that a study full of mistakes is refused with; they are all there is."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "wrong.yaml").write_text(WRONG)
    told = command("validate", "wrong.yaml", cwd=folder, site=site)
    assert (told.returncode, told.stdout) == (2, "")
    return told.stderr.splitlines()


def study() -> str:
    """A study of the sections and arms that the README shows."""
    data, model, alone, both = re.findall(r"`([\w: ]*\{[^`]*\})`", SECTION)
    return f"""\
{data}
{model}
training: {{epochs: 2, batch_size: 20, lr: 0.1}}
attack: {{eps: 0.5, steps: 2}}
seeds: [0, 1]
checks: null
arms:
  alone: {alone}
  both: {both}
"""


def command(*arguments: str, cwd: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "tune_interpreg", *arguments, cwd=cwd, PYTHONPATH=str(site), COLUMNS="200")


def python(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


def of_arm(records: list[Record], arm: str) -> list[dict[str, float]]:
    """The metrics of each seed of ``arm``."""
    return [one for record in records if record["arm"] == arm for one in record["metrics"].values()]


def test_the_section_is_there_and_short() -> None:
    assert HEADING in README
    assert len(SECTION.strip().splitlines()) <= 30


# ------------------------------------------------------------------------- a study
def test_every_seed_of_each_arm_is_in_the_ledger_with_what_it_was_made_of(ran: tuple[list[Record], str, str]) -> None:
    records, _, _ = ran
    methods = {"alone": "sparse", "both": "sparse + jacobian"}
    found = sorted((one["state"], one["arm"], one["recipe"]["method"], one["seeds"]) for one in records)
    assert found == [("done", arm, method, [seed]) for arm, method in methods.items() for seed in (0, 1)]
    for record in records:
        assert (record["recipe"]["data"]["name"], record["recipe"]["data"]["options"]) == ("stripes", {"classes": 4})
        assert record["recipe"]["model"] == {"name": "mlp", "options": {"width": 16}}
        assert record["recipe"]["params"]["strength"] == 0.1
        assert record["counts"] == {"train": 140, "val": 60, "test": 100, "grad_norm": 140}


@pytest.mark.parametrize(("arm", "terms"), [("alone", {"ce", "sparse"}), ("both", {"ce", "sparse", "jacobian"})])
def test_the_methods_terms_add_up_to_the_loss(ran: tuple[list[Record], str, str], arm: str, terms: set[str]) -> None:
    for metrics in of_arm(ran[0], arm):
        own = {name.removeprefix("train/"): value for name, value in metrics.items() if name.startswith("train/")}
        loss = own.pop("loss")
        assert own.keys() == terms
        assert min(own.values()) > 0
        assert sum(own.values()) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("arm", ["alone", "both"])
def test_the_table_shows_the_mean_of_the_ledgers_accuracies(ran: tuple[list[Record], str, str], arm: str) -> None:
    records, printed, _ = ran
    accuracies = [one["test/accuracy"] for one in of_arm(records, arm)]
    assert min(accuracies) > 0.5, "which of four columns is bright is easily learnt"
    row = next(line for line in printed.splitlines() if f"│ {arm} " in line)
    assert f"│ {100 * sum(accuracies) / 2:.2f} ± " in row
    assert "Table 1. Accuracy on stripes, %" in printed


def test_a_sequential_gets_the_exact_adjoint(ran: tuple[list[Record], str, str]) -> None:
    """Else a warning says why its penalties take double backpropagation; nor does the stale package disturb."""
    assert ran[2] == ""


# ------------------------------------------------------------------------ mistakes
def test_wrong_options_and_parameters_are_told_with_those_there_are(told: list[str]) -> None:
    assert told[:-1] == [
        "error: wrong.yaml:1: data.colours: unknown option; dataset stripes takes classes",
        'wrong.yaml:2: model.width: takes a whole number, got "wide"',
        "wrong.yaml:4: arms.negative.strength: takes a finite number of at least 0, got -1",
        "wrong.yaml:5: arms.misspelt.strenth: unknown parameter; method sparse takes strength (did you mean strength?)",
        "wrong.yaml:6: arms.bare: method sparse + jacobian needs strength: give a value, or search it "
        "(strength of the penalty)",
        'wrong.yaml:7: arms.unknown.method: unknown method "sprase"; did you mean sparse?',
    ]


def test_a_package_that_cannot_be_imported_is_named(told: list[str]) -> None:
    assert told[-1] == (
        "wrong.yaml:8: arms.broken.method: stale (stale_lab.gone:StaleTrainable, of stale-lab) cannot be imported: "
        "No module named 'stale_lab.gone'; 'stale_lab' is not a package; mend or remove it"
    )
