"""The field's methods beyond the paper's, each against its formula.

Shapes: B batch, C·H·W image, K classes.
"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import B, Make, first_batch
from torch import Tensor, nn

from trainables.mart import boosted_cross_entropy
from tune_interpreg.attacks import balls
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
