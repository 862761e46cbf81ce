"""The field's methods beyond the paper's, each against its formula.

Shapes: B batch, C·H·W image, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import ATTACK, B, Make, first_batch, method
from torch import Tensor, nn

from trainables import testing
from trainables.mart import boosted_cross_entropy
from tune_interpreg.attacks import balls, pgd
from tune_interpreg.data.dataset import to_pixels
from tune_interpreg.training.trainer import Batch


def test_gaussian_training_takes_the_cross_entropy_at_noisy_images(make: Make) -> None:
    """f(x) = (0, w·x), label 0: CE = mean log(1 + e^(w·(x + σ·n)))."""
    trainable, layer = make("gaussian", sigma=0.3), nn.Linear(64, 2, bias=False)
    nn.init.zeros_(layer.weight[0])
    batch = first_batch(trainable)
    noise_BCHW = torch.empty_like(batch.x_BCHW).normal_(generator=first_batch(trainable).noise)
    expected = F.softplus((batch.x_BCHW + 0.3 * noise_BCHW).flatten(1) @ layer.weight[1]).mean()
    batch = first_batch(trainable)
    batch.y_B.zero_()
    torch.testing.assert_close(trainable.terms(nn.Sequential(nn.Flatten(), layer), batch)["ce"], expected)
    assert noise_BCHW.std().item() == pytest.approx(1.0, abs=3 / (2 * B * 64) ** 0.5)


def test_gaussian_training_without_noise_is_standard_training(make: Make) -> None:
    assert make("gaussian", sigma=0.0).trainer.run_epoch() == make("standard").trainer.run_epoch()


def autograd_gradients(model: nn.Module, x_BCHW: Tensor, output: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ∂(Σ_b output(f(x))_b)/∂x by PyTorch's autograd alone."""
    leaf = x_BCHW.detach().requires_grad_()
    return torch.autograd.grad(output(model(leaf)).sum(), leaf, create_graph=True)[0]


@pytest.mark.parametrize("towards", ["mean", "nearest"])
def test_aligned_training_compares_each_class_gradient_with_the_way_to_the_class(make: Make, towards: str) -> None:
    """1 − mean cos(∇ log p_k, t_k − x) over images and classes, by autograd and by a loop over the images."""
    trainable = make("aligned", net="digits_cnn", strength=2.0, towards=towards)
    model, batch = trainable.trainer.replicas[0].model.double(), first_batch(trainable, torch.float64)
    train_NCHW, y_N = to_pixels(trainable.data.train.x_NCHW).double(), trainable.data.train.y_N
    cosines = []
    for k in range(10):
        of_class_NCHW = train_NCHW[y_N == k]
        g_BCHW = autograd_gradients(model, batch.x_BCHW, lambda z_BK, k=k: z_BK.log_softmax(-1)[:, k])
        for x_CHW, g_CHW in zip(batch.x_BCHW, g_BCHW, strict=True):
            distance_N = (of_class_NCHW - x_CHW).flatten(1).norm(dim=1)
            nearest_CHW = of_class_NCHW[distance_N.masked_fill(distance_N == 0, torch.inf).argmin()]
            t_CHW = (of_class_NCHW.mean(0) if towards == "mean" else nearest_CHW) - x_CHW
            cosines.append(F.cosine_similarity(t_CHW.flatten(), g_CHW.flatten(), dim=0))
    expected = 2.0 * (1 - torch.stack(cosines).mean())
    torch.testing.assert_close(trainable.terms(model, batch)["aligned"], expected, rtol=1e-6, atol=0)


def test_aligned_training_with_drawn_classes_has_the_mean_of_all_classes(make: Make) -> None:
    """Over many draws. The classes of an image differ, and a draw of all ten is no draw."""
    terms = {}
    for classes in (0, 3, 10):
        trainable = make("aligned", net="digits_cnn", strength=1.0, classes=classes)
        model, batch = trainable.trainer.replicas[0].model, first_batch(trainable)
        repeats = 60 if classes == 3 else 1
        draws = torch.stack([trainable.terms(model, batch)["aligned"].detach() for _ in range(repeats)])
        terms[classes] = draws.mean().item(), draws.std(correction=0).item() / repeats**0.5
    assert terms[10][0] == terms[0][0]
    assert abs(terms[3][0] - terms[0][0]) < 4 * terms[3][1]
    drawn_PB = trainable._choose_classes(torch.zeros(8, 10), batch.noise)
    assert sorted(drawn_PB[:, 0].tolist()) == list(range(10))


def test_gradient_alignment_is_that_of_two_backpropagations(make: Make) -> None:
    """λ·(1 − mean cos(∇ℓ(x), ∇ℓ(x + η))) by autograd, with η of the same draw; 0 where the gradient is constant."""
    trainable = make("gradient_align", net="digits_cnn", strength=3.0)
    model, batch = trainable.trainer.replicas[0].model.double(), first_batch(trainable, torch.float64)
    ball = trainable.recipe.attack.model_copy(update={"start": "ball"})
    near_BCHW = balls.draw_start(batch.x_BCHW, ball, first_batch(trainable).noise)

    def loss(z_BK: Tensor) -> Tensor:
        return F.cross_entropy(z_BK, batch.y_B, reduction="none")

    gradients = [autograd_gradients(model, x_BCHW, loss).flatten(1) for x_BCHW in (batch.x_BCHW, near_BCHW)]
    expected = 3.0 * (1 - F.cosine_similarity(*gradients).mean())
    batch = first_batch(trainable, torch.float64)
    torch.testing.assert_close(trainable.terms(model, batch)["gradient_align"], expected, rtol=1e-6, atol=0)
    two_classes = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()  # ∇ℓ ∝ w₁ − w₂ at every x
    binary = Batch(batch.x_BCHW, batch.y_B % 2, None, batch.noise)
    assert trainable.terms(two_classes, binary)["gradient_align"].item() == pytest.approx(0, abs=1e-12)


def test_mart_has_its_published_terms(make: Make) -> None:
    """p(x′) = (1, 2, 5)/8, y = 1: BCE = −log(2/8) − log(3/8); and the weighted divergence at the attack's images."""
    z_BK = torch.log(torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64))
    expected = -math.log(2 / 8) - math.log(3 / 8)
    assert boosted_cross_entropy(z_BK, torch.tensor([1])).item() == pytest.approx(expected)
    trainable = make("mart", net="digits_cnn", strength=5.0)
    model, batch = trainable.trainer.replicas[0].model.double(), first_batch(trainable, torch.float64)
    q_BK = model(trainable.attacked_images(model, first_batch(trainable, torch.float64))).softmax(-1)
    p_BK, y_B1 = model(batch.x_BCHW).softmax(-1), batch.y_B.unsqueeze(-1)
    rivals_BK = q_BK.scatter(-1, y_B1, 0)
    bce_B = -q_BK.gather(-1, y_B1).log().squeeze(-1) - (1 - rivals_BK.amax(-1)).log()
    kl_B = (p_BK * (p_BK / q_BK).log()).sum(-1) * (1 - p_BK.gather(-1, y_B1).squeeze(-1))
    terms = trainable.terms(model, first_batch(trainable, torch.float64))
    torch.testing.assert_close(terms, {"ce": bce_B.mean(), "mart": 5.0 * kl_B.mean()}, rtol=1e-10, atol=0)


def test_the_dual_norm_is_the_first_order_loss_of_an_attack(make: Make) -> None:
    """‖d‖₁ = max d·δ over ‖δ‖∞ ≤ 1: mean over the samples, sum over the batch, mean square."""
    trainable = make("input_gradient", net="digits_cnn", strength=1.0)
    model, batch = trainable.trainer.replicas[0].model.double(), first_batch(trainable, torch.float64)
    d_BCHW = autograd_gradients(model, batch.x_BCHW, lambda z_BK: F.cross_entropy(z_BK, batch.y_B, reduction="none"))
    l1_B = (d_BCHW * d_BCHW.sign()).flatten(1).sum(1)
    for norm, expected in {"sample": l1_B.mean(), "batch": l1_B.sum(), "squared": (l1_B**2).mean()}.items():
        trainable.params |= {"dual": "l1", "norm": norm}
        torch.testing.assert_close(trainable.terms(model, batch)["input_gradient"], expected, rtol=1e-10, atol=0)


def binary(w_D: Tensor) -> nn.Module:
    """Return f(x) = (0, w·x) in float64. For label 0, ∇ℓ = σ(w·x)·w."""
    layer = nn.Linear(len(w_D), 2, bias=False, dtype=torch.float64)
    layer.weight.data = torch.stack([torch.zeros_like(w_D), w_D])
    return nn.Sequential(nn.Flatten(), layer)


def random_direction(seed: int) -> Tensor:
    return torch.randn(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_trades_has_its_published_terms_at_images_that_ascend_the_divergence(make: Make) -> None:
    """Steps along the gradient of KL(p(x) ‖ p(x′)) by autograd, from x + 0.001·n, projected to the l2 ball."""
    trainable = make("trades", net="digits_cnn", strength=6.0)
    attack, model = trainable.recipe.attack, trainable.trainer.replicas[0].model.double()
    batch = first_batch(trainable, torch.float64)
    p_BK = model(batch.x_BCHW).softmax(-1).detach()

    def divergence_B(x_BCHW: Tensor) -> Tensor:
        q_BK = model(x_BCHW).softmax(-1)
        return (p_BK * (p_BK / q_BK).log()).sum(-1)

    x_BCHW = batch.x_BCHW + 0.001 * torch.empty_like(batch.x_BCHW).normal_(generator=first_batch(trainable).noise)
    for _ in range(attack.steps):
        leaf = x_BCHW.detach().requires_grad_()
        g_BCHW = torch.autograd.grad(divergence_B(leaf).sum(), leaf)[0]
        x_BCHW = (x_BCHW + attack.step_length * balls.l2_direction(g_BCHW, 1e-30)).clamp(0, 1)
        x_BCHW = (batch.x_BCHW + balls.project_l2(x_BCHW - batch.x_BCHW, attack.eps)).clamp(0, 1)
    attacked_BCHW = trainable.attacked_images(model, first_batch(trainable, torch.float64))
    torch.testing.assert_close(attacked_BCHW, x_BCHW, rtol=0, atol=1e-7)
    q_BK = model(attacked_BCHW).softmax(-1)
    p_BK = model(batch.x_BCHW).softmax(-1)
    expected = {
        "ce": -p_BK.gather(-1, batch.y_B.unsqueeze(-1)).log().mean(),
        "trades": 6.0 * (p_BK * (p_BK / q_BK).log()).sum(-1).mean(),
    }
    terms = trainable.terms(model, first_batch(trainable, torch.float64))
    torch.testing.assert_close(terms, expected, rtol=1e-9, atol=0)
    assert terms["trades"] > 10 * 6.0 * divergence_B(batch.x_BCHW + 0.001).mean()


def test_the_ascent_of_a_divergence_is_its_gradient_at_the_logits() -> None:
    """Up to a factor. In float32 it does not vanish at a confident p: logits (0, 40) and (0, 39.5)."""
    p_BK = torch.tensor([[1.0, 2.0, 5.0], [6.0, 1.0, 1.0]], dtype=torch.float64) / 8
    z_BK = torch.tensor([[0.3, -1.0, 2.0], [0.1, 0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    (g_BK,) = torch.autograd.grad((p_BK * (p_BK.log() - z_BK.log_softmax(-1))).sum(), z_BK)
    e_BK = pgd.divergence_gradient(z_BK.detach(), p_BK.log())
    torch.testing.assert_close(e_BK, g_BK / g_BK.abs().amax(-1, keepdim=True))
    log_p_BK = torch.tensor([[0.0, 40.0]]).log_softmax(-1)
    torch.testing.assert_close(
        pgd.divergence_gradient(torch.tensor([[0.0, 39.5]]), log_p_BK), torch.tensor([[1.0, -1]])
    )
    assert not pgd.divergence_gradient(torch.tensor([[0.0, 40.0]]), log_p_BK).any()


@pytest.mark.parametrize("name", ["curvature", "distill", "gradient_match", "trades"])
def test_strength_zero_with_dropout_is_standard_training(name: str, tmp_path) -> None:
    """The additional forwards of these methods leave the draws of dropout as they are."""
    params = dict.fromkeys(testing.strengths(method(name)), 0.1)
    attributes = {"method": method(name), "params": params, "config": {"model": "mnist_cnn"}}
    suite = type("Contract", (testing.MethodContract,), attributes)()
    suite.setup_method()
    suite.test_strength_zero_is_the_base_method(tmp_path)
    suite.teardown_method()


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)])
def test_curvature_is_the_change_of_the_gradient_along_its_sign(make: Make, epoch: int, share: float) -> None:
    """f(x) = (0, w·x), label 0: mean (σ(w·x + h‖w‖₁/√D) − σ(w·x))²·‖w‖²; h grows over the first four epochs."""
    trainable, w_D = make("curvature", strength=3.0, h=0.8, ramp=4), random_direction(0)
    batch = replace(first_batch(trainable, torch.float64), epoch=torch.tensor(float(epoch)))
    batch.y_B.zero_()
    z_B = batch.x_BCHW.flatten(1) @ w_D
    moved_B = z_B + share * 0.8 * w_D.abs().sum() / 8
    expected = 3.0 * ((moved_B.sigmoid() - z_B.sigmoid()) ** 2).mean() * w_D.square().sum()
    terms = trainable.terms(binary(w_D), batch)
    torch.testing.assert_close(terms, {"ce": F.softplus(z_B).mean(), "curvature": expected}, rtol=1e-6, atol=0)


def test_curvature_is_that_of_two_backpropagations_in_eval_mode(make: Make) -> None:
    """With dropout in the network. No gradient flows through the direction."""
    trainable = make("curvature", strength=2.0, h=0.5, ramp=1)
    model, batch = trainable.trainer.replicas[0].model.double(), first_batch(trainable, torch.float64)
    loss = lambda z_BK: F.cross_entropy(z_BK, batch.y_B, reduction="none")  # noqa: E731
    model.eval()
    d_BCHW = autograd_gradients(model, batch.x_BCHW, loss)
    u_BCHW = d_BCHW.detach().sign()
    u_BCHW = u_BCHW / u_BCHW.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    change_BCHW = autograd_gradients(model, batch.x_BCHW + 0.5 * u_BCHW, loss) - d_BCHW
    expected = 2.0 * change_BCHW.flatten(1).norm(dim=1).square().mean()
    weights = list(model.parameters())
    wanted = torch.autograd.grad(expected, weights, materialize_grads=True)
    model.train()
    term = trainable.terms(model, batch)["curvature"]
    torch.testing.assert_close(term, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(term, weights, materialize_grads=True), wanted, rtol=1e-8, atol=1e-12
    )


def test_the_step_of_curvature_follows_the_epoch_of_the_training(make: Make) -> None:
    """Also in the first epoch after an interruption."""
    trainable = make("curvature", net="digits_cnn", ramp=3)
    replica = trainable.trainer.replicas[0]
    for epoch in (0, 1, 5):
        replica.begin_epoch(epoch, lr=0.1)
        assert trainable.trainer.make_batch(replica, torch.arange(2)).epoch == epoch


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("noise", "alpha"), [(2.0, 1.0), (0.0, 1.25), (0.5, 0.25)])
def test_without_projection_noise_and_step_add_up(make: Make, norm: str, noise: float, alpha: float) -> None:
    """N-FGSM on f(x) = (0, w·x), label 0: x + η + αε·w/‖w‖, or αε·sign w, with η of the ball of radius k·ε."""
    eps, w_D = 0.01, random_direction(1)
    attack = ATTACK | {"norm": norm, "eps": eps}
    trainable = make("fast_adversarial", attack=attack, noise=noise, alpha=alpha, project="none")
    batch = first_batch(trainable, torch.float64)
    batch = replace(batch, x_BCHW=torch.full_like(batch.x_BCHW, 0.5), y_B=torch.zeros_like(batch.y_B))
    ball = trainable.attack.model_copy(update={"eps": noise * eps})
    start_BCHW = balls.draw_start(batch.x_BCHW, ball, first_batch(trainable).noise)
    direction_D = w_D / w_D.norm() if norm == "l2" else w_D.sign()
    expected_BCHW = start_BCHW + alpha * eps * direction_D.view(1, 8, 8)
    first_batch(trainable)  # restarts the draws
    x_BCHW = trainable.attacked_images(binary(w_D), batch)
    torch.testing.assert_close(x_BCHW, expected_BCHW, rtol=0, atol=1e-12)
    order = 2 if norm == "l2" else math.inf
    largest = (x_BCHW - 0.5).flatten(1).norm(order, dim=1).max().item()
    assert largest <= (noise + alpha) * eps * (1 + 1e-9)
    assert (largest > eps) == (noise + alpha > 1)
    trainable.params["project"] = "ball"
    assert (trainable.attacked_images(binary(w_D), batch) - 0.5).flatten(1).norm(order, dim=1).max() <= eps * (1 + 1e-9)
