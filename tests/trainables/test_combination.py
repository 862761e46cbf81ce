"""Methods joined by + as one arm: which terms they have, what they share, and what is refused."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers.contract import COMBINED, Make, batch, making, method, strengths
from ray import cloudpickle
from torch import Tensor, nn

from trainables import JacobianTrainable, MethodTrainable, combine
from trainables.combination import CombinedTrainable
from tune_interpreg import registry
from tune_interpreg.networks.layers import Adjoint
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from making(tmp_path, monkeypatch)


def terms(trainable: MethodTrainable, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Of the first batch, whose streams begin anew."""
    return dict(trainable.terms(model or trainable.trainer.replicas[0].model, batch(trainable)))


def assert_same_terms(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


# --------------------------------------------------------------------------- terms
def test_penalties_of_one_forward_share_the_cross_entropy_and_its_dropout_masks(make: Make) -> None:
    """jacobian + interpretation: the bits of each method's own terms, where each draws the same masks."""
    alone = terms(make("jacobian")) | terms(make("interpretation"))
    assert_same_terms(terms(make("jacobian + interpretation")), alone)


def test_the_cross_entropy_is_taken_at_the_moved_images_and_penalties_at_the_clean_ones(make: Make) -> None:
    """Whichever stands first, and with the attack's own draws."""
    net = {"net": "digits_cnn"}
    alone = terms(make("interpretation", **net)) | terms(make("jacobian", **net)) | terms(make("adversarial", **net))
    for name in ("adversarial + interpretation + jacobian", "jacobian + interpretation + adversarial"):
        assert_same_terms(terms(make(name, **net)), alone)
    assert not torch.equal(alone["ce"], terms(make("standard", **net))["ce"])


def test_standard_training_adds_nothing(make: Make) -> None:
    """Not a draw of dropout either."""
    for name in ("standard + jacobian", "jacobian + standard"):
        assert_same_terms(terms(make(name)), terms(make("jacobian")))


class Counting(PiecewiseLinear):
    """Counts its forwards."""

    forwards = 0

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
        self.forwards += 1
        return super().linearize(x_BCHW)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.forwards += 1
        return super().forward(x_BCHW)


@pytest.mark.parametrize(
    ("name", "forwards"),
    [
        ("standard + jacobian", 1),
        ("input_gradient + jacobian + interpretation", 1),
        ("adversarial + interpretation", 3 + 2),  # steps, the moved images, the clean ones
    ],
)
def test_a_loss_takes_one_forward_of_the_clean_images(name: str, forwards: int, make: Make) -> None:
    model = Counting([nn.Flatten(), nn.Linear(64, 10)])
    terms(make(name), model)
    assert model.forwards == forwards


# ---------------------------------------------------------------------- parameters
def test_a_shared_parameter_holds_for_every_method(make: Make) -> None:
    """norm: sample and output: probabilities, for both penalties."""
    options = {"norm": "sample", "output": "probabilities"}
    alone = terms(make("jacobian", **options)) | terms(make("interpretation", **options))
    assert_same_terms(terms(make("jacobian + interpretation", **options)), alone)


def test_parameters_are_those_of_all_methods() -> None:
    joint = method("adversarial + interpretation")
    assert joint.parameters == {**method("adversarial").parameters, **method("interpretation").parameters}
    assert strengths("cosine + jacobian") == ["lambda_cs", "lambda_gm", "lambda_j"]


def test_a_combination_is_what_one_of_its_methods_is() -> None:
    traits = {
        "jacobian + input_gradient": (False, False, False),
        "jacobian + interpretation": (False, True, False),
        "fast_adversarial + cosine": (True, True, True),
    }
    for name, expected in traits.items():
        joint = method(name)
        assert (joint.attacks_images, joint.needs_targets, joint.signed_targets) == expected


# ------------------------------------------------------------------------- refused
class OtherNorm(MethodTrainable):
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "norm": JacobianTrainable.parameters["norm"].model_copy(update={"default": "sample"})
    }


class SameTerm(MethodTrainable):
    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": batch.linearize(model)[0].sum(), "jacobian": batch.x_BCHW.sum()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jacobian + jacobian", "Jacobian \\+ Jacobian is no combination: Jacobian stands twice; drop one"),
        ("adversarial + fast_adversarial", "at most one method attacks its images, here Adversarial and Fast"),
        ("interpretation + cosine", "at most one method needs targets, here Interpretation and Cosine do"),
        ("jacobian + jacobian_projections", "lambda_j is one thing in Jacobian and another in JacobianProjections"),
        ("cosine + jacobian + interpretation + jacobian", "Jacobian stands twice; .*at most one method needs targets"),
    ],
)
def test_methods_that_contradict_each_other_are_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        registry.load_method(name)


def test_methods_of_other_packages_are_checked_alike(make: Make) -> None:
    """A parameter of another meaning, a kind of a method that is there already, a term that is there already."""
    with pytest.raises(ValueError, match="norm is one thing in Jacobian and another in OtherNorm"):
        combine(JacobianTrainable, OtherNorm)
    own = type("OwnTrainable", (JacobianTrainable,), {})
    with pytest.raises(ValueError, match="Jacobian and Own are of one kind"):
        combine(JacobianTrainable, own)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    alone = make("jacobian")
    joint = combine(JacobianTrainable, SameTerm)(alone.config)
    with pytest.raises(ValueError, match="JacobianSameTermTrainable: two methods have a term jacobian; rename it"):
        terms(joint, model)
    joint.cleanup()


# ------------------------------------------------------------------------- classes
@pytest.mark.parametrize("name", COMBINED)
def test_the_same_names_give_the_same_class(name: str) -> None:
    first, second = (method(part) for part in name.split(" + "))
    assert combine(first, second) is first.combine(second) is method(name) is method(name.replace(" ", ""))
    assert method(name).__name__ == first.__name__.removesuffix("Trainable") + second.__name__
    assert issubclass(method(name), CombinedTrainable)


def test_a_worker_in_another_process_gets_the_class_as_it_is(tmp_path: Path) -> None:
    """Ray sends classes by cloudpickle; that of a combination stands in no module."""
    joint = method("adversarial + interpretation")
    assert cloudpickle.loads(cloudpickle.dumps(joint)) is joint
    (tmp_path / "class").write_bytes(cloudpickle.dumps(joint))
    code = (
        "import sys; from pathlib import Path; from ray import cloudpickle;"
        "kind = cloudpickle.loads(Path(sys.argv[1]).read_bytes());"
        "print(kind.__name__, kind.attacks_images, kind.needs_targets, *kind.parameters)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "class")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["AdversarialInterpretationTrainable", "True", "True", *joint.parameters]
