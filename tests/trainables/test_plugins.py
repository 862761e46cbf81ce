"""A method, a network and a data set of another package, as pip installs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_interpreg.store.store import Record

PACKAGE = {
    "pyproject.toml": """\
project.name = "my-lab"
project.version = "1.0"
tool.setuptools.py-modules = ["my_lab"]
project.entry-points."tune_interpreg.methods".sparse = "my_lab:SparseTrainable"
project.entry-points."tune_interpreg.models".mlp = "my_lab:mlp"
project.entry-points."tune_interpreg.datasets".stripes = "my_lab:stripes"
""",
    "my_lab.py": '''\
from torch import Generator, Size, arange, eye, nn, rand
from trainables import MethodTrainable, Parameter, penalties
from tune_interpreg.data import Source, Split


class SparseTrainable(MethodTrainable):
    """CE + strength · mean |g|, with the gradient g of the label's logit."""

    parameters = {"strength": Parameter(help="strength of the penalty", low=0)}

    def terms(self, model, batch):
        z_BK, adjoint = batch.linearize(model)
        size = penalties.label_gradient(adjoint, batch.y_B, z_BK).abs().mean()
        return {"ce": nn.functional.cross_entropy(z_BK, batch.y_B), "sparse": self.params["strength"] * size}


def mlp(shape, classes, *, width: int = 8):
    return nn.Sequential(nn.Flatten(), nn.Linear(Size(shape).numel(), width), nn.ReLU(), nn.Linear(width, classes))


def stripes(root, *, classes: int = 3):
    """A bright column for each class, in noise."""
    y_N, noise_NCHW = arange(300) % classes, rand(300, 1, 8, 8, generator=Generator().manual_seed(0))
    images = Split((eye(8)[y_N, None, None] + noise_NCHW) / 2, y_N)
    return Source(classes, (1, 8, 8), 60, lambda: images.at(slice(200)), lambda: images.at(slice(200, 300)))
''',
}
STUDY = """\
data: {name: stripes, classes: 4}
model: {name: mlp, width: 16}
training: {epochs: 2, batch_size: 20, lr: 0.1}
attack: {eps: 0.5, steps: 2}
seeds: [0, 1]
checks: null
arms:
  alone: {method: sparse, strength: 0.1}
  both: {method: sparse + jacobian, strength: 0.1, lambda_j: 0.01}
"""

#: A package with an entry point for a module that was removed.
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
    """The folder in which pip has installed the package and a stale one.

    The package's folder also holds a store of results and a script, as a user's folder does after a while.
    """
    lab, stale, site = (tmp_path_factory.mktemp(name) for name in ("lab", "stale", "site"))
    for name, text in PACKAGE.items():
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
    """The records, output and errors of a study of all three, in this process."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(STUDY)
    ran = command("run", "study.yaml", "--store", "store", "--cluster", "in-process", cwd=folder, site=site)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    records = [json.loads(path.read_text()) for path in (folder / "store").glob("ledger/*/*.json")]
    return records, ran.stdout, ran.stderr


@pytest.fixture(scope="module")
def problems(site: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The problems of a study full of mistakes, in lines."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "wrong.yaml").write_text(WRONG)
    validated = command("validate", "wrong.yaml", cwd=folder, site=site)
    assert (validated.returncode, validated.stdout) == (2, "")
    return validated.stderr.splitlines()


def command(*arguments: str, cwd: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "tune_interpreg", *arguments, cwd=cwd, PYTHONPATH=str(site), COLUMNS="200")


def python(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


def metrics_of(records: list[Record], arm: str) -> list[dict[str, float]]:
    """Return the metrics of each seed of ``arm``."""
    return [metrics for record in records if record["arm"] == arm for metrics in record["metrics"].values()]


# ------------------------------------------------------------------------- a study
def test_every_seed_of_each_arm_has_a_record_with_its_configuration(ran: tuple[list[Record], str, str]) -> None:
    records, _, _ = ran
    methods = {"alone": "sparse", "both": "sparse + jacobian"}
    items = sorted((record["state"], record["arm"], record["recipe"]["method"], record["seeds"]) for record in records)
    assert items == [("done", arm, method, [seed]) for arm, method in methods.items() for seed in (0, 1)]
    for record in records:
        assert (record["recipe"]["data"]["name"], record["recipe"]["data"]["options"]) == ("stripes", {"classes": 4})
        assert record["recipe"]["model"] == {"name": "mlp", "options": {"width": 16}}
        assert record["recipe"]["params"]["strength"] == 0.1
        assert record["counts"] == {"train": 140, "val": 60, "test": 100, "grad_norm": 140}


@pytest.mark.parametrize(("arm", "terms"), [("alone", {"ce", "sparse"}), ("both", {"ce", "sparse", "jacobian"})])
def test_the_methods_terms_add_up_to_the_loss(ran: tuple[list[Record], str, str], arm: str, terms: set[str]) -> None:
    for metrics in metrics_of(ran[0], arm):
        means = {name.removeprefix("train/"): value for name, value in metrics.items() if name.startswith("train/")}
        loss = means.pop("loss")
        assert means.keys() == terms
        assert min(means.values()) > 0
        assert sum(means.values()) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("arm", ["alone", "both"])
def test_the_models_learn_which_column_is_bright(ran: tuple[list[Record], str, str], arm: str) -> None:
    assert min(metrics["test/accuracy"] for metrics in metrics_of(ran[0], arm)) > 0.5


def test_a_sequential_gets_the_exact_adjoint(ran: tuple[list[Record], str, str]) -> None:
    """Otherwise there would be a warning on stderr."""
    assert ran[2] == ""


# ------------------------------------------------------------------------ mistakes
def test_wrong_options_and_parameters_are_reported_with_their_place(problems: list[str]) -> None:
    places = [problem.removeprefix("error: ").split(": ")[:2] for problem in problems]
    assert places == [
        ["wrong.yaml:1", "data.colours"],
        ["wrong.yaml:2", "model.width"],
        ["wrong.yaml:4", "arms.negative.strength"],
        ["wrong.yaml:5", "arms.misspelt.strenth"],
        ["wrong.yaml:6", "arms.bare"],
        ["wrong.yaml:7", "arms.unknown.method"],
        ["wrong.yaml:8", "arms.broken.method"],
    ]
    assert "did you mean strength?" in problems[3]
    assert "did you mean sparse?" in problems[5]


def test_a_package_that_cannot_be_imported_is_named(problems: list[str]) -> None:
    assert all(part in problems[-1] for part in ("stale_lab.gone:StaleTrainable", "stale-lab", "cannot be imported"))
