"""The measures of interpretability against closed forms, SciPy and captum, and what they must not depend on.

Shapes: N images, B batch, C·H·W image, D = C·H·W pixels, K classes, M noisy copies.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import spearmanr
from torch import Tensor, nn

from tune_interpreg.data.dataset import Split
from tune_interpreg.evaluation import interpretability
from tune_interpreg.evaluation.interpretability import (
    DELETION_STEPS,
    alignment,
    check_randomization,
    cosine_similarity,
    deletion,
    measure_interpretability,
    rank_correlation,
    relative_change,
    sparsity,
    stability,
    structural_similarity,
    subtract_mean,
)
from tune_interpreg.evaluation.measures import compute_jacobian_norms
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.study import metric_names as names
from tune_interpreg.study.config import Attack

SHAPE = (2, 5, 6)
D = math.prod(SHAPE)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(n, *shape, generator=random(seed))


def linear(w_KD: Tensor) -> Chain:
    """Return f(x) = Wx."""
    layer = nn.Linear(*reversed(w_KD.shape), bias=False)
    layer.weight.data.copy_(w_KD)
    return Chain([nn.Flatten(), layer])


def convolutional(classes: int = 4) -> Chain:
    """Return a small network with random weights, for images of SHAPE, in train mode."""
    net = Chain([nn.Conv2d(2, 6, 3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(72, classes)])
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0.0, 0.5, generator=random(p.numel()))
    return net


class Function(nn.Module):
    """A model without parameters that computes z_BK from x_BCHW."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.function(x_BCHW)


def measure(model: nn.Module, split: Split, **options: Any) -> dict[str, Tensor]:
    return measure_interpretability(model, split, **{"maps": {}, "seed": 0, "batch_size": 100, **options})


def split_of(n: int, classes: int = 4) -> Split:
    return Split(images(n), torch.arange(n) % classes)


def test_a_linear_model_with_the_image_as_weights_is_aligned_sparse_as_the_image_and_stable() -> None:
    """g = ±x: cos = 1, |⟨x, g⟩|/‖g‖ = ‖x‖, and no noise changes g. Centering takes the mean from x alone."""
    x = images(3)
    results = measure(linear(torch.stack([x[0], -x[1], 5 * x[2]]).flatten(1)), Split(x, torch.arange(3)))
    norm_N = x.flatten(1).double().norm(dim=1)
    spread_N = D**0.5 * x.flatten(1).double().std(dim=1, correction=0)
    expected = {
        names.ALIGNMENT: norm_N,
        names.ALIGNMENT_COSINE: torch.ones(3),
        names.ALIGNMENT_CENTERED: spread_N**2 / norm_N,
        names.ALIGNMENT_COSINE_CENTERED: spread_N / norm_N,
        names.SPARSITY: sparsity(x),
        names.ZERO_GRADIENT: torch.zeros(3),
        names.STABILITY: torch.zeros(3),
        names.STABILITY_PER_LOGITS: torch.zeros(3),
    }
    for name, values_N in expected.items():
        torch.testing.assert_close(results[name], values_N.double(), rtol=1e-5, atol=1e-6, msg=name)


def test_the_gini_coefficient_of_equal_values_is_the_share_of_zeros() -> None:
    """k equal values and D − k zeros give 1 − k/D: 1 − 1/D for one pixel, 0 for a constant map. A map of 0 has 0."""
    m = torch.zeros(4, D)
    for row, k in enumerate((1, 7, D)):
        m[row, torch.randperm(D, generator=random(row))[:k]] = 0.3
    expected = torch.tensor([1 - 1 / D, 1 - 7 / D, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sparsity(m.view(-1, *SHAPE)), expected)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_the_gini_coefficient_is_half_the_relative_mean_difference(values: list[float]) -> None:
    """Gini = Σ_i Σ_j |m_i − m_j| / (2·D²·mean)."""
    m = np.array(values)
    difference = np.abs(m[:, None] - m).mean()
    expected = difference / (2 * m.mean()) if m.any() else 0.0
    assert float(sparsity(torch.tensor(values).view(1, 1, 1, -1))) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@given(st.data(), st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_rank_correlation_equals_scipys_with_ties(data: st.DataObject, pixels: int) -> None:
    a, b = (data.draw(st.lists(st.integers(0, 5), min_size=pixels, max_size=pixels)) for _ in range(2))
    constant = len(set(a)) == 1 or len(set(b)) == 1
    expected = 0.0 if constant else spearmanr(a, b).statistic
    tensors = [torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1) for values in (a, b)]
    assert float(rank_correlation(*tensors)) == pytest.approx(expected, abs=1e-12)


def reference_ssim(a_HW: np.ndarray, b_HW: np.ndarray, side: int) -> float:
    """SSIM of one channel in [0, 1] as loops over the positions of a Gaussian window."""
    offsets = np.arange(side) - side // 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for i in range(a_HW.shape[0] - side + 1):
        for j in range(a_HW.shape[1] - side + 1):
            a, b = (v[i : i + side, j : j + side] for v in (a_HW, b_HW))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 0.0001) / (mean_a**2 + mean_b**2 + 0.0001)
            values.append(luminance * (2 * covariance + 0.0009) / (var_a + var_b + 0.0009))
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width", "side"), [(13, 12, 11), (8, 8, 7), (5, 30, 5), (1, 4, 1)])
def test_structural_similarity_equals_its_formula_and_that_of_equal_maps_is_1(
    height: int, width: int, side: int
) -> None:
    a, b = (3 * images(2, seed, (2, height, width)) + seed for seed in (1, 2))
    scaled = [((m - m.amin((1, 2, 3), True)) / (m.amax((1, 2, 3), True) - m.amin((1, 2, 3), True))) for m in (a, b)]
    pairs = zip(*(m.numpy().astype(float) for m in scaled), strict=True)
    expected = [np.mean([reference_ssim(p, q, side) for p, q in zip(x, y, strict=True)]) for x, y in pairs]
    assert structural_similarity(a, b).tolist() == pytest.approx(expected, abs=1e-5)
    assert structural_similarity(a, 2 * a + 1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_structural_similarity_equals_skimages() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a, b = images(1, 1, (1, 20, 16)), images(1, 2, (1, 20, 16))
    a.view(-1)[:2], b.view(-1)[:2] = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = metrics.structural_similarity(a[0, 0].numpy(), b[0, 0].numpy(), **options)
    assert float(structural_similarity(a, b)) == pytest.approx(expected, abs=1e-5)


INVARIANT: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, g: alignment(x, g),
    lambda x, g: alignment(subtract_mean(x), g),
    lambda x, g: cosine_similarity(x, g).abs(),
    lambda x, g: cosine_similarity(x, g.abs()),
    lambda x, g: rank_correlation(x, g.abs()),
    lambda x, g: sparsity(g.abs()),
]


@given(st.integers(0, 10**6), st.floats(1e-20, 1e15), st.sampled_from([-1.0, 1.0]))
@settings(max_examples=30, deadline=None)
def test_measures_of_maps_ignore_the_size_and_sign_of_the_gradient_and_the_order_of_the_pixels(
    seed: int, scale: float, sign: float
) -> None:
    x, g = images(3, seed), torch.randn(3, *SHAPE, generator=random(seed + 1))
    order_D = torch.randperm(D, generator=random(seed))
    moved = [v.flatten(1)[:, order_D].view_as(v) for v in (x, g)]
    for function in INVARIANT:
        expected = function(x, g)
        torch.testing.assert_close(function(x, sign * scale * g), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(function(*moved), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        structural_similarity(x, scale * g.abs()), structural_similarity(x, g.abs()), rtol=1e-3, atol=1e-4
    )


def test_zero_gradients_and_constant_maps_have_the_stated_values() -> None:
    """A constant classifier: all measures are 0, except for the count of zero gradients and the SSIM of equal maps."""
    split = split_of(3)
    model = Function(lambda x: 0 * x.flatten(1)[:, :4] + torch.tensor([0.0, 1.0, 2.0, 3.0]))
    maps = {"zero": torch.zeros_like(split.x_NCHW), "constant": torch.full_like(split.x_NCHW, 2.0)}
    results = measure(model, split, maps=maps)
    ones = {names.ZERO_GRADIENT, f"{names.SIMILARITY_SSIM}/zero", f"{names.SIMILARITY_SSIM}/constant"}
    assert {name: values_N.tolist() for name, values_N in results.items()} == {
        name: [float(name in ones)] * 3 for name in results
    }
    before, after = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 1e-30], [3, 9]])
    assert relative_change(before, after).tolist() == [0.0, 1.0, 1.0]


def test_the_two_norms_ignore_a_function_added_to_all_logits_and_table_3_does_not() -> None:
    """For Wx they are ‖Wᵀ(e_y − p)‖ and ‖w_y − mean_k w_k‖."""
    split, w_KD, h_D = split_of(6), torch.randn(4, D, generator=random(1)), 7 * torch.randn(D, generator=random(2))
    x_ND, e_NK, w = split.x_NCHW.flatten(1).double(), torch.eye(4).double()[split.y_N], w_KD.double()
    p_NK = (x_ND @ w.T).softmax(1)
    expected = {
        names.NORM_LOG_PROBABILITY: ((e_NK - p_NK) @ w).norm(dim=1),
        names.NORM_CENTERED_LOGIT: (w[split.y_N] - w.mean(0)).norm(dim=1),
    }
    for model in (linear(w_KD), linear(w_KD + h_D)):
        results = measure(model, split)
        for name, values_N in expected.items():
            torch.testing.assert_close(results[name], values_N, rtol=1e-4, atol=1e-7)
    norms_NK, shifted_NK = (compute_jacobian_norms(linear(v), split.x_NCHW) for v in (w_KD, w_KD + h_D))
    assert ((shifted_NK - norms_NK).abs() > 1).all()


@pytest.mark.parametrize("margin", [10.0, 50.0, 600.0])
def test_the_norm_of_a_confident_models_log_probability_is_exact(margin: float) -> None:
    """Two classes with margin m: ‖∇ log p_y‖ = ‖w_1 − w_0‖·e^−m/(1 + e^−m), far below float32's smallest number."""
    x = images(1)
    w = torch.stack([torch.zeros(D), margin * x.flatten() / x.square().sum()])
    norm = float(measure(linear(w), Split(x, torch.tensor([1])))[names.NORM_LOG_PROBABILITY])
    expected = float(w[1].double().norm()) * math.exp(-margin) / (1 + math.exp(-margin))
    assert norm == pytest.approx(expected, rel=1e-3, abs=0)


def test_stability_of_a_quadratic_model_is_the_relative_length_of_the_noise() -> None:
    """z = a·‖x‖²/2 has g = a_y·x. So r_g = ‖e‖/‖x‖, and the logits change by a factor of ‖x + e‖²/‖x‖²."""
    x, y = images(3), torch.tensor([0, 2, 1])
    a_K = torch.tensor([1.0, -3.0, 0.5])
    model = Function(lambda x: a_K * x.flatten(1).square().sum(1, keepdim=True) / 2)
    noise_NMD = 0.05 * torch.randn(3, 4, D, generator=random(1))
    with torch.no_grad():
        z, adjoint = linearize(model, x)
        g = adjoint(torch.eye(3)[y])
        change_N, ratio_N = stability(model, x, y, z, g, noise_NMD.view(3, 4, *SHAPE))
    x_N1D, e = x.flatten(1)[:, None].double(), noise_NMD.double()
    g_change_NM = e.norm(dim=2) / x_N1D.norm(dim=2)
    z_change_NM = ((x_N1D + e).square().sum(2) / x_N1D.square().sum(2) - 1).abs()
    torch.testing.assert_close(change_N, g_change_NM.mean(1), rtol=1e-4, atol=0)
    torch.testing.assert_close(ratio_N, (g_change_NM / z_change_NM).mean(1), rtol=1e-2, atol=0)
    split = Split(images(200), torch.arange(200) % 3)
    drawn_N = measure(model, split, with_deletion=False)[names.STABILITY]
    expected_N = 0.05 * D**0.5 / split.x_NCHW.flatten(1).norm(dim=1)
    assert float((drawn_N / expected_N).mean()) == pytest.approx(1.0, abs=0.03)  # ‖e‖ ≈ σ·√D, 1,000 draws


def test_stability_equals_captums_sensitivity() -> None:
    """captum's sensitivity of one perturbation is ‖Δm‖/‖m‖ by image; with a signed g it is our first measure."""
    metrics = pytest.importorskip("captum.metrics")
    net = nn.Sequential(nn.Flatten(), nn.Linear(D, 8), nn.GELU(), nn.Linear(8, 3))
    x, y = images(4), torch.tensor([0, 1, 2, 0])
    noise = 0.05 * torch.randn(4, 1, *SHAPE, generator=random(1))

    def gradient(inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        leaf = inputs[0].detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(net(leaf).gather(1, y[:, None]).sum(), leaf)

    theirs = metrics.sensitivity_max(gradient, x, perturb_func=lambda _: (x + noise[:, 0],), n_perturb_samples=1)
    with torch.no_grad():
        z, adjoint = linearize(net, x)
        ours, _ = stability(net, x, y, z, adjoint(torch.eye(3)[y]), noise)
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("place", [0, 7, 19])
def test_deletion_of_a_model_with_one_pixel_by_hand(place: int) -> None:
    """z = (0, a·x_j). The map deletes x_j first, the random order at its place r: min(r, 19)/20·(σ(aμ) − σ(a·x_j))."""
    x, j, a = images(1, shape=(1, 4, 5)), 13, 3.0
    x.view(-1)[j] = 0.9
    order = torch.randperm(20, generator=random(1))
    order = torch.cat([order[order != j][:place], torch.tensor([j]), order[order != j][place:]])
    model = Function(lambda x: torch.stack([torch.zeros(len(x)), a * x.flatten(1)[:, j]], 1))
    m = torch.zeros_like(x)
    m.view(-1)[j] = 1.0
    before, after = expit(a * 0.9), expit(a * float(x.mean()))
    difference = float(deletion(model, x, torch.tensor([1]), m, order[None]))
    assert difference == pytest.approx(min(place, DELETION_STEPS - 1) / DELETION_STEPS * (after - before), abs=1e-6)


def test_deletion_is_the_difference_of_two_areas_by_the_trapezoidal_rule() -> None:
    """Both curves as loops, from the whole image to none of it. A constant map deletes in random order: exactly 0."""
    model, x, y = convolutional().eval(), images(3), torch.tensor([0, 1, 2])
    m = torch.rand(3, *SHAPE, generator=random(1))
    orders = torch.stack([torch.randperm(D, generator=random(seed)) for seed in range(3)])

    def area(image: Tensor, label: int, order: Tensor) -> float:
        curve = []
        for step in range(21):
            deleted = image.clone().flatten()
            deleted[order[: step * D // 20]] = image.mean()
            curve.append(float(model(deleted.view(1, *SHAPE)).softmax(1)[0, label].detach()))
        return float(np.trapezoid(curve, dx=1 / 20))

    ours = torch.no_grad()(deletion)(model, x, y, m, orders)
    for n in range(3):
        by_map = m[n].flatten().argsort(descending=True)
        assert float(ours[n]) == pytest.approx(area(x[n], n, by_map) - area(x[n], n, orders[n]), abs=1e-6)
    with torch.no_grad():
        assert deletion(model, x, y, torch.ones_like(x), orders).tolist() == [0.0] * 3
        torch.testing.assert_close(deletion(model, x, y, 1e-9 * m, orders), ours, rtol=0, atol=0)


def test_the_scale_of_the_logits_matters_only_to_the_norms_and_to_deletion() -> None:
    """A hundred times the logits decide the same."""
    split, maps = split_of(6), {"other": images(6, 3)}
    net, scaled = convolutional(), convolutional()
    with torch.no_grad():
        for p in list(scaled.parameters())[-2:]:
            p.mul_(100)
    ours, theirs = measure(net, split, maps=maps), measure(scaled, split, maps=maps)
    torch.testing.assert_close(theirs[names.NORM_CENTERED_LOGIT], 100 * ours[names.NORM_CENTERED_LOGIT])
    for name in ours.keys() - {names.NORM_CENTERED_LOGIT, names.NORM_LOG_PROBABILITY, names.DELETION}:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=1e-4, msg=name)
    assert not torch.allclose(theirs[names.DELETION], ours[names.DELETION], atol=0.01)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    net, shifted = convolutional(), convolutional()
    with torch.no_grad():
        list(shifted.parameters())[-1].add_(50)
    ours, theirs = measure(net, split_of(6)), measure(shifted, split_of(6))
    for name, values_N in ours.items():
        torch.testing.assert_close(theirs[name], values_N, rtol=1e-3, atol=1e-4, msg=name)


def test_results_depend_on_the_seed_and_the_position_and_not_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The global generator has no effect and keeps its state. Bytes count as pixels."""
    monkeypatch.setattr(interpretability, "IMAGES_PER_DRAW", 4)
    split, model, maps = split_of(11), convolutional(), {"other": images(11, 3)}
    whole = measure(model, split, maps=maps)
    for size in (1, 3, 8):
        torch.manual_seed(size)
        state, other = torch.get_rng_state(), measure(model, split, maps=maps, batch_size=size)
        assert torch.equal(state, torch.get_rng_state())
        for name, values_N in whole.items():
            torch.testing.assert_close(other[name], values_N, rtol=1e-4, atol=1e-5, msg=name)
    random_names = {names.STABILITY, names.STABILITY_PER_LOGITS, names.DELETION}
    reseeded = measure(model, split, maps=maps, seed=1)
    assert {name for name in whole if not torch.allclose(reseeded[name], whole[name])} == random_names
    first = measure(model, split.at(slice(0, 5)), maps={"other": maps["other"][:5]}, with_deletion=False)
    assert first.keys() == whole.keys() - {names.DELETION}
    for name, values_N in first.items():
        torch.testing.assert_close(values_N, whole[name][:5], rtol=1e-4, atol=1e-5, msg=name)
    levels = (255 * split.x_NCHW).round()
    as_bytes, as_floats = (measure(model, Split(x, split.y_N)) for x in (levels.to(torch.uint8), levels / 255))
    assert all(torch.equal(as_bytes[name], as_floats[name]) for name in as_floats)


def test_each_image_gets_its_own_noise_and_order() -> None:
    """Equal images with equal labels have equal results, except for those with random draws."""
    results = measure(convolutional(), Split(images(1).expand(8, -1, -1, -1), torch.zeros(8, dtype=torch.int64)))
    for name, values_N in results.items():
        drawn = name in {names.STABILITY, names.STABILITY_PER_LOGITS, names.DELETION}
        assert len(values_N.unique()) == (8 if drawn else 1) or torch.allclose(values_N, values_N[0], atol=1e-7), name


def test_a_measure_runs_in_eval_mode_and_restores_modes_and_leaves_no_gradients() -> None:
    modes: list[bool] = []
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(D, 4)).train()
    model[0].eval()
    model.register_forward_pre_hook(lambda module, _: modes.append(module[1].training))
    results = measure(model, split_of(5), maps={"a": images(5), "b": images(5, 1).half()})
    assert modes
    assert not any(modes)
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert {values_N.dtype for values_N in results.values()} == {torch.float64}
    assert {tuple(values_N.shape) for values_N in results.values()} == {(5,)}
    assert not any(values_N.requires_grad for values_N in results.values())
    similar = (names.SIMILARITY_COSINE, names.SIMILARITY_SPEARMAN, names.SIMILARITY_SSIM)
    assert len(results) == 11 + 2 * len(similar)
    assert {name for name in results if "/" in name} == {f"{name}/{key}" for name in similar for key in "ab"}


def test_similarity_to_the_models_own_map_is_1() -> None:
    split, model = split_of(4), convolutional()
    with torch.no_grad():
        _, adjoint = linearize(model, split.x_NCHW)
        own = adjoint(torch.eye(4)[split.y_N]).abs()
    results = measure(model, split, maps={"own": own})
    for name in (names.SIMILARITY_COSINE, names.SIMILARITY_SPEARMAN, names.SIMILARITY_SSIM):
        assert results[f"{name}/own"].tolist() == pytest.approx([1.0] * 4, abs=1e-5)


def test_faulty_maps_and_results_are_refused() -> None:
    split, model = split_of(4), convolutional()
    for maps, fault in ((images(3), "shape"), (-images(4), "≥ 0"), (images(4) / torch.tensor(0.0), "finite")):
        with pytest.raises(ValueError, match=fault):
            measure(model, split, maps={"other": maps})
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        measure(model, split)


class Counter(nn.Module):
    """Counts the forwards and adjoints of images by a linear model."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.images = linear(torch.randn(4, D, generator=random(0))), 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.images += len(x_BCHW)
        return self.model(x_BCHW)

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        self.images += len(x_BCHW)
        z_BK, adjoint = self.model.linearize(x_BCHW)

        def count(e: Tensor) -> Tensor:
            self.images += e.numel() // e.shape[-1]
            return adjoint(e)

        return z_BK, count


@pytest.mark.parametrize(("with_deletion", "forwards"), [(False, 14), (True, 52)])
def test_an_image_takes_fewer_forwards_than_ten_steps_of_pgd(with_deletion: bool, forwards: int) -> None:
    """Ten steps take 20 forwards and adjoints. Deletion takes 38 in addition."""
    model = Counter()
    measure(model, split_of(6), maps={"a": images(6), "b": images(6, 1)}, with_deletion=with_deletion)
    assert model.images == forwards * 6


def subject(model: nn.Module, n: int = 40) -> Subject:
    return Subject(model, split_of(n), Attack(), seed=0, batch_size=16)


class Painted(nn.Module):
    """z_k = w_k·‖x‖²: the map shows the image, whatever the parameters are."""

    def __init__(self) -> None:
        super().__init__()
        self.w_K = nn.Parameter(torch.randn(4, generator=random(0)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.flatten(1).square().sum(1, keepdim=True) * self.w_K


def test_the_maps_of_a_network_change_with_its_parameters_and_painted_ones_do_not() -> None:
    """A network passes; its parameters stay as they are. A map that shows the image has ρ = 1 and warns."""
    net = convolutional()
    before = [p.clone() for p in net.parameters()]
    sound = check_randomization(subject(net))
    assert sound.state == "PASS"
    assert abs(sound.values["all"]) < 0.3
    assert sound == check_randomization(subject(net))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    painted = check_randomization(subject(Painted()))
    assert (painted.state, painted.n) == ("WARN", 40)
    assert painted.values == pytest.approx({"last": 1.0, "all": 1.0})


def test_drawing_the_last_layer_again_keeps_the_others() -> None:
    """New weights have the spread of the old ones and no correlation with them."""
    net = convolutional()
    layers = interpretability._layers(net)
    redrawn = interpretability._redraw_layers(net, 1, random(0))
    changed = [not torch.equal(p, q) for p, q in zip(net.parameters(), redrawn.parameters(), strict=True)]
    assert len(layers) == 2
    assert changed == [False, False, True, True]
    weights, drawn = (list(model.parameters())[2].detach().flatten() for model in (net, redrawn))
    assert float(drawn.std() / weights.std()) == pytest.approx(1.0, abs=0.15)
    assert abs(float(torch.corrcoef(torch.stack([weights, drawn]))[0, 1])) < 0.2


def test_a_model_without_parameters_or_with_nan_is_reported() -> None:
    """Nothing to draw: the check did not run. NaN has no rank, so it is a warning, never a pass."""
    with_nan = images(2)
    with_nan[0, 0, 0, 0] = torch.nan
    assert rank_correlation(with_nan, images(2)).isnan().tolist() == [True, False]
    assert check_randomization(subject(Function(lambda x: x.flatten(1)[:, :4]))).n == 0
    net = convolutional()
    with torch.no_grad():
        next(net.parameters())[0] = torch.nan
    assert check_randomization(subject(net)).state == "WARN"


@pytest.mark.slow
def test_sparsity_and_deletion_equal_those_of_quantus() -> None:
    """quantus needs OpenCV and scikit-image, 200 MB: ``pip install quantus`` runs this test, else it is skipped.

    Its pixel flipping gives the curve of one image, in the order of a map; the 20th value is the empty image's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantus = pytest.importorskip("quantus")
        options = {"normalise": False, "disable_warnings": True}
        net = nn.Sequential(nn.Flatten(), nn.Linear(120, 3)).eval()
        x, y, m = images(2, 0, (1, 10, 12)), torch.tensor([0, 2]), images(2, 1, (1, 10, 12))
        orders = torch.stack([torch.randperm(120, generator=random(seed)) for seed in (2, 3)])
        first_is_largest = -orders.argsort(1).view_as(x).float()
        sparse = quantus.Sparseness(**options)(net, x.numpy(), y.numpy(), m.numpy())
        areas = []
        for n in range(2):
            flipping = quantus.PixelFlipping(6, perturb_baseline=float(x[n].mean()), **options)
            batch = (net, x[n : n + 1].numpy(), y[n : n + 1].numpy())
            curves = [flipping(*batch, v[n : n + 1].numpy(), softmax=True)[0] for v in (m, first_is_largest)]
            areas.append(sum(curves[0][:19]) / 20 - sum(curves[1][:19]) / 20)
    assert sparsity(m).tolist() == pytest.approx([float(value) for value in sparse], rel=1e-4)
    with torch.no_grad():
        ours = deletion(net, x, y, m, orders).tolist()
    assert min(abs(value) for value in ours) > 1e-4
    assert ours == pytest.approx(areas, abs=1e-6)
