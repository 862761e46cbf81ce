"""Every option of a method, by an equation where there is one.

Shapes: B batch, C·H·W image, K classes.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import ATTACK, METHODS, B, Make, first_batch, method
from torch import nn

from tune_interpreg.attacks import balls
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.layers import Dropout
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.training.trainer import Batch

PLAIN = [name for name in METHODS if "+" not in name]


def methods_with(option: str) -> list[str]:
    return [name for name in PLAIN if option in method(name).parameters]


def terms(make: Make, name: str, net: str = "digits_cnn", **options: Any) -> dict[str, float]:
    """Return the terms of the first batch, at strength 1, in float64."""
    trainable = make(name, net=net, strength=1.0, **options)
    model = trainable.trainer.replicas[0].model.double()
    values = trainable.terms(model, first_batch(trainable, torch.float64))
    return {key: float(term.detach()) for key, term in values.items()}


def test_the_defaults_are_those_of_the_paper() -> None:
    """Or of the authors' code if the paper leaves a choice open."""
    defaults = {name: {key: value.default for key, value in method(name).parameters.items()} for name in PLAIN}
    shared = {"norm": "batch", "output": "logits"}
    map_of = {"phi": 1.0, "threshold": "one_sided"}
    assert defaults == {
        "standard": {},
        "adversarial": {"mode": "train"},
        "fast_adversarial": {"mode": "train", "alpha": 1.25, "noise": 1.0, "project": "ball"},
        "gaussian": {"sigma": 0.15},
        "interpretation": {"lambda": None, "sign": "abs"} | shared | map_of,
        "cosine": {"lambda_cs": None, "lambda_gm": None} | shared | map_of | {"threshold": "two_sided"},
        "jacobian": {"lambda_j": None, "dropout": "shared"} | shared,
        "jacobian_projections": {"lambda_j": None, "projections": 1} | shared,
        "input_gradient": {"lambda_g": None, "norm": "batch", "dual": "l2"},
        "aligned": {"lambda_pag": None, "towards": "mean", "classes": 0},
        "gradient_align": {"lambda_ga": None},
        "distill": {"lambda_kd": None, "ce_weight": 1.0, "temperature": 4.0},
        "gradient_match": {"lambda_match": None, "norm": "squared"},
        "trades": {"lambda_trades": None, "mode": "eval"},
        "curvature": {"lambda_cure": None, "h": 1.5, "ramp": 5, "norm": "squared"},
        "mart": {"lambda_mart": None, "mode": "eval"},
    }


@pytest.mark.parametrize("name", methods_with("norm"))
def test_norms_of_a_batch_differ(name: str, make: Make) -> None:
    """batch = √B·√squared, sample ≤ √squared."""
    batch = [terms(make, name, norm=norm) for norm in ("batch", "sample", "squared")]
    for key in batch[0].keys() - {"ce", "cosine"}:
        batch_norm, sample, squared = (values[key] for values in batch)
        assert batch_norm == pytest.approx((B * squared) ** 0.5)
        assert 0.5 * squared**0.5 < sample < squared**0.5 * (1 - 1e-6)


@pytest.mark.parametrize("name", methods_with("output"))
def test_output_probabilities_equals_a_softmax_after_the_model(name: str, make: Make) -> None:
    """The penalty with output: probabilities is that of the logits of softmax ∘ f, and differs from that of f."""
    trainable = make(name, net="digits_cnn", strength=1.0)
    model = trainable.trainer.replicas[0].model.double()
    behind = nn.Sequential(model, nn.Softmax(-1))
    batch = first_batch(trainable, torch.float64)
    expected = {key: float(term.detach()) for key, term in trainable.terms(behind, batch).items()}
    probable, logits = terms(make, name, output="probabilities"), terms(make, name, output="logits")
    assert probable["ce"] == logits["ce"]
    for key in expected.keys() - {"ce"}:
        assert probable[key] == pytest.approx(expected[key])
        assert probable[key] != pytest.approx(logits[key], rel=1e-3)


def test_the_sign_selects_g_or_its_magnitude(make: Make) -> None:
    """‖I − |g|‖ and ‖I − g‖, with the simple gradient g."""
    trainable = make("interpretation", net="digits_cnn")
    batch, model = first_batch(trainable, torch.float64), trainable.trainer.replicas[0].model.double()
    g_BCHW = saliency.simple_gradient(model, batch.x_BCHW, batch.y_B)
    for sign, compared in (("abs", g_BCHW.abs()), ("signed", g_BCHW)):
        expected = (batch.target_BCHW - compared).square().sum().sqrt().item()
        assert terms(make, "interpretation", sign=sign)["interpretation"] == pytest.approx(expected)


@pytest.mark.parametrize("name", methods_with("threshold"))
def test_thresholds_keep_one_tail_of_a_map_or_both(name: str, make: Make) -> None:
    """Mean 0, std √(2·9/5) ≈ 1.9, φ = 1: 3 remains in either case, −3 only with both tails."""
    raw = torch.tensor([-3.0, 0, 0, 0, 0, 3.0]).view(1, 1, 2, 3)
    for choice, tails in {"one_sided": [0, 3], "two_sided": [-3, 3]}.items():
        assert make(name, threshold=choice).target(raw).flatten()[[0, 5]].tolist() == tails
    assert make(name, phi=2.0).target(raw).count_nonzero() == 0


def test_the_cosine_and_the_magnitude_have_a_strength_each(make: Make) -> None:
    """λ_cs·(1 − mean cos(I, g)) and λ_gm·‖g‖, by PyTorch's own cosine."""
    trainable = make("cosine", net="digits_cnn", lambda_cs=2.0, lambda_gm=3.0)
    batch, model = first_batch(trainable, torch.float64), trainable.trainer.replicas[0].model.double()
    g_BCHW = saliency.simple_gradient(model, batch.x_BCHW, batch.y_B)
    values = trainable.terms(model, batch)
    cosine_B = F.cosine_similarity(batch.target_BCHW.flatten(1), g_BCHW.flatten(1))
    assert values["cosine"].item() == pytest.approx(2 * (1 - cosine_B.mean().item()))
    assert values["magnitude"].item() == pytest.approx(3 * g_BCHW.norm().item())


def test_independent_dropout_gives_each_row_of_the_jacobian_its_own_mask(make: Make) -> None:
    """f(x) = W(m∘x), W = 1, m ∈ {0, 2}: ‖J‖²/4 counts entries, a multiple of K if all rows share a mask."""
    layer = nn.Linear(64, 10)
    nn.init.ones_(layer.weight)
    model = Chain([nn.Flatten(), Dropout(0.5), layer])
    counts = {}
    for choice in ("shared", "independent"):
        trainable = make("jacobian", strength=1.0, norm="squared", dropout=choice)
        batch = first_batch(trainable, images=1)
        model.layers[1].generator = trainable.trainer.replicas[0].streams["dropout"]
        counts[choice] = trainable.terms(model, batch)["jacobian"].item() / 4
        assert 0.3 * 640 < counts[choice] < 0.7 * 640
    assert counts["shared"] % 10 == 0
    assert counts["independent"] % 10 != 0


def test_dropout_of_the_jacobian_does_not_change_the_cross_entropy(make: Make) -> None:
    """In a network without dropout both Jacobians are equal."""
    with_dropout = [terms(make, "jacobian", net="mnist_cnn", dropout=choice) for choice in ("shared", "independent")]
    assert with_dropout[0]["ce"] == with_dropout[1]["ce"]
    assert with_dropout[0]["jacobian"] != pytest.approx(with_dropout[1]["jacobian"], rel=1e-4)
    for output in ("logits", "probabilities"):
        without = [terms(make, "jacobian", dropout=choice, output=output) for choice in ("shared", "independent")]
        assert without[0] == pytest.approx(without[1])


def test_more_projections_approximate_the_jacobian_better(make: Make) -> None:
    exact = terms(make, "jacobian", norm="squared")["jacobian"]
    few, many = (
        terms(make, "jacobian_projections", norm="squared", projections=n)["jacobian_projections"] for n in (1, 300)
    )
    assert abs(many - exact) < 0.02 * exact < abs(few - exact)


@pytest.mark.parametrize("name", methods_with("mode"))
def test_in_eval_mode_the_attack_has_no_dropout(name: str, make: Make) -> None:
    """The images are those of an attack on the model in eval mode. All terms are those of train mode."""
    trainable = make(name, mode="eval")
    model, batch = trainable.trainer.replicas[0].model, first_batch(trainable)
    with eval_mode(model):
        expected = trainable.perturb(model, batch)
    assert torch.equal(trainable.attacked_images(model, first_batch(trainable)), expected)
    assert all(module.training for module in model.modules())
    in_train_mode = make(name, mode="train")
    assert not torch.equal(in_train_mode.attacked_images(model, first_batch(trainable)), expected)


def test_fast_adversarial_training_is_adversarial_training_of_one_step_from_the_ball(make: Make) -> None:
    """Step 1.25·ε gives the same losses."""
    one_step = ATTACK | {"steps": 1, "step_size": 1.25 * 0.5, "start": "ball"}
    fast, slow = make("fast_adversarial"), make("adversarial", attack=one_step)
    assert fast.trainer.run_epoch() == slow.trainer.run_epoch()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_alpha_is_the_length_of_the_step_in_radii(alpha: float, make: Make) -> None:
    """f(x) = (0, wx), label 0: CE = log(1 + e^wx) at x + Π(d + αε·w/‖w‖), with the start x + d."""
    trainable = make("fast_adversarial", alpha=alpha)
    layer = nn.Linear(64, 2, bias=False, dtype=torch.float64)
    layer.weight.data[0] = 0
    x_BCHW, w = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64), layer.weight[1].detach()
    d = balls.draw_start(x_BCHW, trainable.attack, first_batch(trainable).noise) - x_BCHW
    moved = d + alpha * 0.5 * (w / w.norm()).view(1, 1, 8, 8)
    expected = F.softplus(w @ (x_BCHW + moved * min(1.0, 0.5 / moved.norm().item())).flatten())
    batch = Batch(x_BCHW, torch.tensor([0]), None, first_batch(trainable).noise)
    ce = trainable.terms(Chain([nn.Flatten(), layer]), batch)["ce"]
    assert ce.item() == pytest.approx(expected.item(), rel=1e-6)
