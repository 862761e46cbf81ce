"""Every option of a method: what tells its values apart, by an equation where there is one.

Shapes: B batch, C·H·W image, K classes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import ATTACK, METHODS, B, Make, batch, making, method, strengths
from torch import Tensor, nn

from trainables.base.assignment import ConfigError
from tune_interpreg.attacks import balls
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.layers import Dropout
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
from tune_interpreg.study.config import Attack
from tune_interpreg.training.trainer import Batch

PLAIN = [name for name in METHODS if "+" not in name]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from making(tmp_path, monkeypatch)


def takes(option: str) -> list[str]:
    return [name for name in PLAIN if option in method(name).parameters]


def terms(make: Make, name: str, images: int = B, net: str = "digits_cnn", **options: Any) -> dict[str, float]:
    """Of the first images, at strength 1, in float64."""
    trainable = make(name, net=net, strength=1.0, **options)
    model = trainable.trainer.replicas[0].model.double()
    found = trainable.terms(model, batch(trainable, torch.float64, images))
    return {key: float(term.detach()) for key, term in found.items()}


def penalties_of(found: dict[str, float]) -> dict[str, float]:
    """Without the cross-entropy, and the cosine, which takes no norm."""
    return {key: value for key, value in found.items() if key not in ("ce", "cosine")}


def test_the_defaults_are_those_of_the_paper() -> None:
    """Or of the authors' code, where the paper leaves a choice open."""
    defaults = {name: {key: one.default for key, one in method(name).parameters.items()} for name in PLAIN}
    shared = {"norm": "batch", "output": "logits"}
    map_of = {"phi": 1.0, "threshold": "one_sided"}
    assert defaults == {
        "standard": {},
        "adversarial": {"mode": "train"},
        "fast_adversarial": {"mode": "train", "alpha": 1.25},
        "interpretation": {"lambda": None, "sign": "abs"} | shared | map_of,
        "cosine": {"lambda_cs": None, "lambda_gm": None} | shared | map_of | {"threshold": "two_sided"},
        "jacobian": {"lambda_j": None, "dropout": "shared"} | shared,
        "jacobian_projections": {"lambda_j": None, "projections": 1} | shared,
        "input_gradient": {"lambda_g": None, "norm": "batch"},
    }


def test_strengths_are_refused_below_zero(make: Make) -> None:
    for name in METHODS:
        for key in strengths(name):
            with pytest.raises(ConfigError, match=f"{key}: takes a finite number of at least 0, got -0.1"):
                make(name, **{key: -0.1})


# ------------------------------------------------------------------ norm and output
@pytest.mark.parametrize("name", takes("norm"))
def test_norms_differ_on_a_batch_and_agree_on_one_image(name: str, make: Make) -> None:
    """One image: batch = sample = √squared. A batch: batch ≤ √B·√squared with equality, sample ≤ √squared."""
    one, many = (
        [penalties_of(terms(make, name, images, norm=norm)) for norm in ("batch", "sample", "squared")]
        for images in (1, B)
    )
    for key in one[0]:
        batch_norm, sample, squared = (found[key] for found in one)
        assert batch_norm == pytest.approx(sample) == pytest.approx(squared**0.5)
        batch_norm, sample, squared = (found[key] for found in many)
        assert batch_norm == pytest.approx((B * squared) ** 0.5)
        assert 0.5 * squared**0.5 < sample < squared**0.5 * (1 - 1e-6)


@pytest.mark.parametrize("name", takes("output"))
def test_gradients_of_probabilities_are_those_of_a_softmax_put_behind_the_model(name: str, make: Make) -> None:
    """The penalty with output: probabilities is that of the logits of softmax ∘ f, and not that of f's."""
    trainable = make(name, net="digits_cnn", strength=1.0)
    model = trainable.trainer.replicas[0].model.double()
    behind = nn.Sequential(model, nn.Softmax(-1))
    found = {key: float(term.detach()) for key, term in trainable.terms(behind, seen(trainable)).items()}
    probable, logits = terms(make, name, output="probabilities"), terms(make, name, output="logits")
    assert probable["ce"] == logits["ce"]
    for key in found.keys() - {"ce"}:
        assert probable[key] == pytest.approx(found[key])
        assert probable[key] != pytest.approx(logits[key], rel=1e-3)


def seen(trainable: Any) -> Batch:
    return batch(trainable, torch.float64)


# ------------------------------------------------------------- interpretation, cosine
def test_the_sign_decides_what_is_compared_with_the_target(make: Make) -> None:
    """‖I − |g|‖ and ‖I − g‖, g the simple gradient."""
    trainable = make("interpretation", net="digits_cnn")
    given, model = seen(trainable), trainable.trainer.replicas[0].model.double()
    g_BCHW = saliency.simple_gradient(model, given.x_BCHW, given.y_B)
    for sign, compared in (("abs", g_BCHW.abs()), ("signed", g_BCHW)):
        expected = (given.target_BCHW - compared).square().sum().sqrt().item()
        assert terms(make, "interpretation", sign=sign)["interpretation"] == pytest.approx(expected)


@pytest.mark.parametrize("name", takes("threshold"))
def test_thresholds_keep_one_tail_of_a_map_or_both(name: str, make: Make) -> None:
    """Mean 0, std √(2·9/5) ≈ 1.9, φ = 1: 3 stays in either case, −3 where both tails count."""
    raw = torch.tensor([-3.0, 0, 0, 0, 0, 3.0]).view(1, 1, 2, 3)
    kept = {choice: make(name, threshold=choice).target(raw).flatten()[[0, 5]] for choice in ("one_sided", "two_sided")}
    assert kept["one_sided"].tolist() == [0, 3]
    assert kept["two_sided"].tolist() == [-3, 3]
    assert make(name, phi=2.0).target(raw).count_nonzero() == 0


def test_the_cosine_and_the_magnitude_have_a_strength_each(make: Make) -> None:
    """λ_cs·(1 − mean cos(I, g)) and λ_gm·‖g‖, by PyTorch's own cosine."""
    trainable = make("cosine", net="digits_cnn", lambda_cs=2.0, lambda_gm=3.0)
    given, model = seen(trainable), trainable.trainer.replicas[0].model.double()
    g_BCHW = saliency.simple_gradient(model, given.x_BCHW, given.y_B)
    found = trainable.terms(model, given)
    cosine_B = F.cosine_similarity(given.target_BCHW.flatten(1), g_BCHW.flatten(1))
    assert found["cosine"].item() == pytest.approx(2 * (1 - cosine_B.mean().item()))
    assert found["magnitude"].item() == pytest.approx(3 * g_BCHW.norm().item())


# ------------------------------------------------------------------------- Jacobians
def test_independent_dropout_gives_each_row_of_the_jacobian_its_own_mask(make: Make) -> None:
    """f(x) = W(m∘x), W = 1, m ∈ {0, 2}: ‖J‖²/4 counts kept entries, a multiple of K where all rows share a mask."""
    layer = nn.Linear(64, 10)
    nn.init.ones_(layer.weight)
    model = PiecewiseLinear([nn.Flatten(), Dropout(0.5), layer])
    kept = {}
    for choice in ("shared", "independent"):
        trainable = make("jacobian", strength=1.0, norm="squared", dropout=choice)
        given = batch(trainable, images=1)
        model.layers[1].generator = trainable.trainer.replicas[0].streams["dropout"]
        kept[choice] = trainable.terms(model, given)["jacobian"].item() / 4
        assert 0.3 * 640 < kept[choice] < 0.7 * 640
    assert kept["shared"] % 10 == 0
    assert kept["independent"] % 10 != 0


def test_dropout_of_the_jacobian_leaves_the_cross_entropy_alone(make: Make) -> None:
    """The same mask for it; and without dropout in the net both Jacobians are one."""
    with_dropout = [terms(make, "jacobian", net="mnist_cnn", dropout=one) for one in ("shared", "independent")]
    assert with_dropout[0]["ce"] == with_dropout[1]["ce"]
    assert with_dropout[0]["jacobian"] != pytest.approx(with_dropout[1]["jacobian"], rel=1e-4)
    for output in ("logits", "probabilities"):
        without = [terms(make, "jacobian", dropout=one, output=output) for one in ("shared", "independent")]
        assert without[0] == pytest.approx(without[1])


def test_more_projections_come_nearer_to_the_jacobian(make: Make) -> None:
    """n = 1 and n = 1000 differ, and the latter is ‖J‖² but for sampling."""
    exact = terms(make, "jacobian", norm="squared")["jacobian"]
    one, many = (
        terms(make, "jacobian_projections", norm="squared", projections=n)["jacobian_projections"] for n in (1, 1000)
    )
    assert abs(many - exact) < 0.02 * exact < abs(one - exact)


@pytest.mark.parametrize("value", [0, 1.5])
def test_projections_are_counted_in_whole_numbers(value: float, make: Make) -> None:
    with pytest.raises(ConfigError, match=f"projections: takes a whole number of at least 1, got {value}"):
        make("jacobian_projections", projections=value)


# ------------------------------------------------------------------------ adversarial
def attacked(model: nn.Module, given: Batch, attack: Attack) -> Tensor:
    return attacks.perturb(model, given.x_BCHW, given.y_B, attack=attack, generator=given.noise)


@pytest.mark.parametrize("name", takes("mode"))
def test_in_eval_mode_the_attack_meets_no_dropout(name: str, make: Make) -> None:
    """The images are those of an attack on the model in eval mode; their cross-entropy has dropout in either case."""
    trainable = make(name, mode="eval")
    model, given = trainable.trainer.replicas[0].model, batch(trainable)
    with eval_mode(model):
        x_BCHW = attacked(model, given, trainable.attack if name == "fast_adversarial" else Attack(**ATTACK))
    expected = F.cross_entropy(model(x_BCHW), given.y_B)
    assert torch.equal(trainable.terms(model, batch(trainable))["ce"], expected)
    assert all(module.training for module in model.modules())
    in_train_mode = make(name, mode="train")
    assert not torch.equal(in_train_mode.terms(model, batch(trainable))["ce"], expected)


@pytest.mark.parametrize("name", takes("mode"))
def test_modes_agree_where_a_net_has_no_dropout(name: str, make: Make) -> None:
    epochs = [make(name, net="digits_cnn", mode=mode).trainer.run_epoch() for mode in ("train", "eval")]
    assert epochs[0] == epochs[1]


def test_fast_adversarial_training_is_adversarial_training_of_one_step_from_the_ball(make: Make) -> None:
    """Step 1.25·ε: the same losses; and another α gives others."""
    one_step = ATTACK | {"steps": 1, "step_size": 1.25 * 0.5, "start": "ball"}
    fast, slow = make("fast_adversarial"), make("adversarial", attack=one_step)
    assert fast.trainer.run_epoch() == slow.trainer.run_epoch()
    assert make("fast_adversarial", alpha=1.0).trainer.run_epoch() != make("fast_adversarial").trainer.run_epoch()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_alpha_is_the_length_of_the_step_in_radii(alpha: float, make: Make) -> None:
    """f(x) = (0, wx), label 0: CE = log(1 + e^wx) at x + Π(d + αε·w/‖w‖), d the start's; α = 0 leaves the start."""
    trainable = make("fast_adversarial", alpha=alpha)
    layer = nn.Linear(64, 2, bias=False, dtype=torch.float64)
    layer.weight.data[0] = 0
    x_BCHW, w = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64), layer.weight[1].detach()
    d = balls.draw_start(x_BCHW, trainable.attack, batch(trainable).noise) - x_BCHW
    moved = d + alpha * 0.5 * (w / w.norm()).view(1, 1, 8, 8)
    expected = F.softplus(w @ (x_BCHW + moved * min(1.0, 0.5 / moved.norm().item())).flatten())
    given = Batch(x_BCHW, torch.tensor([0]), None, batch(trainable).noise)
    found = trainable.terms(PiecewiseLinear([nn.Flatten(), layer]), given)["ce"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
