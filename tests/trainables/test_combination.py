"""Methods joined by + as one arm: their terms, what they share, and what is refused."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from helpers.contract import COMBINED, Make, first_batch, method, strengths
from ray import cloudpickle
from torch import Tensor, nn

from trainables import Batch, JacobianTrainable, MethodTrainable, StandardTrainable, combine
from trainables.combination import CombinedTrainable
from tune_interpreg import registry
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.layers import Adjoint


def terms(trainable: MethodTrainable, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the terms of the first batch, with restarted random streams."""
    return dict(trainable.terms(model or trainable.trainer.replicas[0].model, first_batch(trainable)))


def assert_same_terms(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in second)


@pytest.mark.parametrize("options", [{}, {"norm": "sample", "output": "probabilities"}])
def test_penalties_share_the_forward_of_the_cross_entropy_and_its_dropout_masks(
    options: dict[str, str], make: Make
) -> None:
    """A shared parameter applies to each of them."""
    alone = terms(make("jacobian", **options)) | terms(make("interpretation", **options))
    assert_same_terms(terms(make("jacobian + interpretation", **options)), alone)


def test_the_cross_entropy_is_at_the_attacked_images_and_penalties_at_the_clean_ones(make: Make) -> None:
    """In any order of the methods, and with the attack's own draws."""
    net = {"net": "digits_cnn"}
    alone = terms(make("interpretation", **net)) | terms(make("jacobian", **net)) | terms(make("adversarial", **net))
    for name in ("adversarial + interpretation + jacobian", "jacobian + interpretation + adversarial"):
        assert_same_terms(terms(make(name, **net)), alone)
    assert not torch.equal(alone["ce"], terms(make("standard", **net))["ce"])


def test_standard_training_adds_nothing_but_a_subclass_may(make: Make) -> None:
    """Also no draw of dropout."""
    for name in ("standard + jacobian", "jacobian + standard"):
        assert_same_terms(terms(make(name)), terms(make("jacobian")))
    subclass = type("ShrinkingTrainable", (StandardTrainable,), {})
    assert combine(JacobianTrainable, subclass).methods == (JacobianTrainable, subclass)


class Counting(Chain):
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
        ("input_gradient + jacobian + interpretation", 1),
        ("adversarial + interpretation", 3 + 2),  # steps, the attacked images, the clean ones
    ],
)
def test_a_loss_takes_one_forward_of_the_clean_images(name: str, forwards: int, make: Make) -> None:
    model = Counting([nn.Flatten(), nn.Linear(64, 10)])
    terms(make(name), model)
    assert model.forwards == forwards


def test_a_combination_has_the_parameters_and_traits_of_its_methods() -> None:
    assert strengths("cosine + jacobian") == ["lambda_cs", "lambda_gm", "lambda_j"]
    for names, traits in {
        ("fast_adversarial", "cosine"): (True, True, True),
        ("jacobian", "interpretation"): (False, True, False),
    }.items():
        joint = method(" + ".join(names))
        assert joint.parameters == {**method(names[0]).parameters, **method(names[1]).parameters}
        assert (joint.attacks_images, joint.needs_targets, joint.signed_targets) == traits


class OtherNorm(MethodTrainable):
    parameters = {"norm": JacobianTrainable.parameters["norm"].model_copy(update={"default": "sample"})}


class SameTerm(MethodTrainable):
    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": batch.linearize(model)[0].sum(), "jacobian": batch.x_BCHW.sum()}


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("jacobian + jacobian", ["Jacobian and Jacobian are of one kind"]),
        ("adversarial + fast_adversarial", ["one method attacks its images", "Adversarial and FastAdversarial"]),
        ("adversarial + trades", ["Adversarial and Trades are of one kind"]),
        ("interpretation + gradient_match", ["norm has different meanings in Interpretation and GradientMatch"]),
        ("gaussian + mart", ["one method attacks its images", "Gaussian and Mart"]),
        ("interpretation + cosine", ["one method needs targets", "Interpretation and Cosine"]),
        ("jacobian + jacobian_projections", ["lambda_j has different meanings in Jacobian and JacobianProjections"]),
        ("cosine + jacobian + interpretation + jacobian", ["Jacobian and Jacobian", "one method needs targets"]),
    ],
)
def test_methods_that_contradict_each_other_are_refused(name: str, problems: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        registry.load_method(name)
    assert all(problem in str(caught.value) for problem in problems)


def test_methods_of_other_packages_are_checked_as_well(make: Make) -> None:
    """Another meaning of a parameter, a subclass of a method, a term with the name of another one's."""
    with pytest.raises(ValueError, match="norm has different meanings in Jacobian and OtherNorm"):
        combine(JacobianTrainable, OtherNorm)
    subclass = type("DerivedTrainable", (JacobianTrainable,), {})
    with pytest.raises(ValueError, match="Jacobian and Derived are of one kind"):
        combine(JacobianTrainable, subclass)
    joint = combine(JacobianTrainable, SameTerm)(make("jacobian").config)
    with pytest.raises(ValueError, match="JacobianSameTermTrainable: two methods have a term jacobian"):
        terms(joint, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    joint.cleanup()


@pytest.mark.parametrize("name", COMBINED)
def test_equal_names_give_the_same_class(name: str) -> None:
    first, second = (method(part) for part in name.split(" + "))
    assert combine(first, second) is method(name) is method(name.replace(" ", ""))
    assert method(name).__name__ == first.__name__.removesuffix("Trainable") + second.__name__
    assert issubclass(method(name), CombinedTrainable)


@pytest.mark.ray
def test_a_worker_in_another_process_gets_the_class(tmp_path: Path) -> None:
    """Ray sends classes by cloudpickle, and no module holds that of a combination."""
    joint = method("adversarial + interpretation")
    assert cloudpickle.loads(cloudpickle.dumps(joint)) is joint
    (tmp_path / "class").write_bytes(cloudpickle.dumps(joint))
    code = (
        "import pathlib, pickle, sys; kind = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes());"
        "print(kind.__name__, kind.attacks_images, kind.needs_targets, *kind.parameters)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "class")]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["AdversarialInterpretationTrainable", "True", "True", *joint.parameters]
