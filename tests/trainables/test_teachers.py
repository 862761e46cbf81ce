"""Methods that learn from a teacher's model, against their formulas, and the teacher that they get.

Shapes: B batch, C·H·W image, K classes.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.contract import Make, finish, first_batch
from helpers.in_process import TEACHER, run_study
from torch import Tensor, nn

from trainables.base.assignment import Assignment
from trainables.base.models import load_teacher
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.store.files import Damaged
from tune_interpreg.store.store import Store

STUDENT = "  learner: {method: distill, lambda_kd: 0.5, teacher: adversarial}\n"
OTHER = STUDENT.replace("learner", "other").replace("teacher:", "model: {name: digits_cnn, activation: gelu}, teacher:")


def constant(*logits: float) -> nn.Module:
    """Return a network with these logits for every image."""
    layer = nn.Linear(64, len(logits))
    nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor(logits)
    return nn.Sequential(nn.Flatten(), layer).double()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_has_its_published_term(make: Make, temperature: float) -> None:
    """Logits (log 1, log 9), the teacher's (log 4, log 4): T²·Σ p_t·log(p_t/p), p ∝ (1, 9^(1/T)), p_t = ½."""
    trainable = make("distill", strength=3.0, temperature=temperature)
    batch = replace(first_batch(trainable, torch.float64), teacher=constant(math.log(4), math.log(4)))
    batch.y_B.zero_()
    terms = trainable.terms(constant(0.0, math.log(9)), batch)
    small, large = 1.0, 9 ** (1 / temperature)
    p = small / (small + large), large / (small + large)
    expected = 3.0 * temperature**2 * sum(0.5 * math.log(0.5 / share) for share in p)
    assert terms["distill"].item() == pytest.approx(expected, rel=1e-6)
    assert terms["ce"].item() == pytest.approx(math.log(10), rel=1e-6)


@pytest.mark.parametrize("norm", ["squared", "sample", "batch"])
def test_gradients_match_those_of_the_teacher(make: Make, norm: str) -> None:
    """f(x) = (0, w·x), teacher (0, v·x), label 0: the norm of σ(w·x)·w − σ(v·x)·v."""
    trainable = make("gradient_match", strength=3.0, norm=norm)
    draws = torch.Generator().manual_seed(0)
    w_D, v_D = (torch.randn(64, generator=draws, dtype=torch.float64) for _ in range(2))
    batch = replace(first_batch(trainable, torch.float64), teacher=linear(v_D))
    batch.y_B.zero_()
    x_BD = batch.x_BCHW.flatten(1)
    distance_BD = (x_BD @ w_D).sigmoid()[:, None] * w_D - (x_BD @ v_D).sigmoid()[:, None] * v_D
    lengths_B = distance_BD.norm(dim=1)
    expected = {"squared": (lengths_B**2).mean(), "sample": lengths_B.mean(), "batch": (lengths_B**2).sum().sqrt()}
    term = trainable.terms(linear(w_D), batch)["gradient_match"]
    torch.testing.assert_close(term, 3.0 * expected[norm], rtol=1e-10, atol=0)


def linear(w_D: Tensor) -> nn.Module:
    """Return f(x) = (0, w·x)."""
    layer = nn.Linear(len(w_D), 2, bias=False, dtype=torch.float64)
    layer.weight.data = torch.stack([torch.zeros_like(w_D), w_D])
    return nn.Sequential(nn.Flatten(), layer)


def test_distillation_and_gradients_share_the_forwards_of_student_and_teacher(make: Make) -> None:
    trainable = make("distill + gradient_match", net="digits_cnn", strength=1.0)
    joint = terms_of(trainable)
    alone = [terms_of(make(name, net="digits_cnn", strength=1.0)) for name in ("distill", "gradient_match")]
    assert joint == alone[0] | alone[1]
    counting, batch = Counting(trainable.trainer.replicas[0].model), first_batch(trainable)
    trainable.terms(counting, replace(batch, teacher=(teacher := Counting(batch.teacher))))
    assert (counting.forwards, teacher.forwards) == (1, 1)


class Counting(nn.Module):
    """Counts its forwards."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.forwards = model, 0

    def linearize(self, x_BCHW: Tensor):
        self.forwards += 1
        return self.model.linearize(x_BCHW)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.forwards += 1
        return self.model(x_BCHW)


@pytest.mark.parametrize("name", ["distill", "distill + jacobian", "adversarial + distill", "standard + distill"])
def test_the_weight_of_the_cross_entropy_scales_nothing_else(name: str, make: Make) -> None:
    options = {"net": "digits_cnn"}
    trainables = make(name, **options), make(name, **options, ce_weight=0.25)
    whole, part = ({key: term.item() for key, term in terms_of(trainable).items()} for trainable in trainables)
    assert part == pytest.approx(whole | {"ce": 0.25 * whole["ce"]}, rel=1e-6)


def terms_of(trainable) -> dict[str, Tensor]:
    return dict(trainable.terms(trainable.trainer.replicas[0].model, first_batch(trainable)))


def test_a_student_equal_to_its_teacher_has_no_divergence(make: Make) -> None:
    trainable = make("distill", net="digits_cnn")
    batch = first_batch(trainable)
    assert trainable.terms(batch.teacher, batch)["distill"].item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_is_in_eval_mode_frozen_and_never_changed(make: Make) -> None:
    """With dropout: two forwards agree, no gradient reaches it, and no checkpoint holds it."""
    trainable = make("distill")
    batch = first_batch(trainable)
    teacher = batch.teacher
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    finish(trainable)
    assert not any(module.training for module in teacher.modules())
    assert all(not weight.requires_grad and weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    z_BK, adjoint = batch.linearize_teacher()
    assert not z_BK.requires_grad
    assert not adjoint(torch.ones_like(z_BK)).requires_grad
    assert batch.linearize_teacher()[0] is z_BK
    with eval_mode(teacher):
        torch.testing.assert_close(teacher(batch.x_BCHW), z_BK)
    owners = {name.split("/")[1] for name in trainable.trainer.state()}
    assert owners == {"model", "momentum"}


def test_a_batch_without_a_teacher_says_what_the_method_lacks(make: Make) -> None:
    with pytest.raises(ValueError, match="needs_teacher = True"):
        first_batch(make("standard")).linearize_teacher()
    assignment = make("standard").assignment
    with pytest.raises(ValueError, match="StandardTrainable needs a teacher, but the arm StandardTrainable names none"):
        load_teacher(Assignment(assignment.job, "cpu"), None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("taught") / "store")
    run_study(store, TEACHER + STUDENT + OTHER)
    return store


@pytest.mark.parametrize(("arm", "activation"), [("learner", "relu"), ("other", "gelu")])
def test_a_study_trains_a_student_with_its_teachers_model(
    finished: Store, make: Make, arm: str, activation: str
) -> None:
    """Its losses are those of a plain configuration with the teacher's weights, also with another network."""
    trained = {record["arm"]: record for record in finished.records() if record["kind"] == "train"}
    record, recipe = trained[arm], trained[arm]["recipe"]
    network = {"name": "digits_cnn", "options": {}}
    assert recipe["teacher"] == {"key": trained["adversarial"]["key"], "seed": 0, "model": network}
    setting = {name: recipe[name] for name in ("data", "training", "attack")}
    setting["model"] = {"name": "digits_cnn", "activation": activation}
    file = finished.model_file(trained["adversarial"]["key"])
    trainable = make("distill", lambda_kd=0.5, **setting | {"teacher": str(file)})
    (again,) = json.loads(finish(trainable)[-1]["records"])
    assert {name: again["metrics"][name] for name in record["metrics"]} == record["metrics"]


def test_an_unreadable_teacher_is_named(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(Damaged, match=r"teacher\.safetensors: is damaged: no model can be read from it"):
        make("distill", teacher=str(file))
