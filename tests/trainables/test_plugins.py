"""A method, a network and a data set of another package. (Guides install such packages with pip.)"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import call
from helpers.in_process import run_study
from helpers.plugins import install_plugin, installed

from tune_interpreg.store.store import Record, Store

MODULE = '''
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
'''
ENTRY_POINTS = """
[tune_interpreg.methods]
sparse = my_lab:SparseTrainable
stale = my_lab.gone:StaleTrainable
[tune_interpreg.models]
mlp = my_lab:mlp
[tune_interpreg.datasets]
stripes = my_lab:stripes
"""
STUDY = """
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


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(install_plugin(tmp_path_factory.mktemp("site"), "my_lab", MODULE, ENTRY_POINTS)):
        yield


@pytest.fixture(scope="module")
def records(lab: None, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The records of a study of all three. A warning that a network has no exact adjoint would be an error."""
    store = Store(tmp_path_factory.mktemp("study") / "store")
    with warnings.catch_warnings(action="error", category=UserWarning):
        run_study(store, STUDY)
    return store.records()


def test_every_seed_of_each_arm_has_a_record_with_its_configuration(records: list[Record]) -> None:
    methods = {"alone": "sparse", "both": "sparse + jacobian"}
    trained = [record for record in records if record["kind"] == "train"]
    items = sorted((record["state"], record["arm"], record["recipe"]["method"], record["seed"]) for record in trained)
    assert items == [("done", arm, method, seed) for arm, method in methods.items() for seed in (0, 1)]
    for record in trained:
        assert (record["recipe"]["data"]["name"], record["recipe"]["data"]["options"]) == ("stripes", {"classes": 4})
        assert record["recipe"]["model"] == {"name": "mlp", "options": {"width": 16}}
        assert record["recipe"]["params"]["strength"] == 0.1
        assert record["images"] == {"train": 140, "validation": 60}
    images = {(split, n) for record in records if record["kind"] == "judge" for split, n in record["images"].items()}
    assert images == {("train", 140), ("validation", 60), ("test", 100)}


@pytest.mark.parametrize(("arm", "terms"), [("alone", {"ce", "sparse"}), ("both", {"ce", "sparse", "jacobian"})])
def test_the_terms_add_up_to_the_loss_and_the_models_learn(records: list[Record], arm: str, terms: set[str]) -> None:
    of_arm = [record for record in records if record["arm"] == arm]
    assert all(record["metrics"].get("test/accuracy", 1.0) > 0.5 for record in of_arm)
    for metrics in [record["metrics"] for record in of_arm if record["kind"] == "train"]:
        means = {name.removeprefix("train/"): value for name, value in metrics.items() if name.startswith("train/")}
        loss = means.pop("loss")
        assert means.keys() == terms
        assert min(means.values()) > 0
        assert sum(means.values()) == pytest.approx(loss, rel=1e-6)


def test_wrong_options_and_parameters_are_reported_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(WRONG)
    validated = call("validate", str(tmp_path / "wrong.yaml"))
    assert (validated.exit_code, validated.stdout) == (2, "")
    problems = validated.stderr.replace(f"{tmp_path}/", "").splitlines()
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
    assert all(part in problems[-1] for part in ("my_lab.gone:StaleTrainable", "my-lab", "cannot be imported"))
