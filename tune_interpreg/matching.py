"""Find λ so that a noisy training loss equals a target: an Optuna sampler and the estimate it ends with.

The loss is taken to rise with λ, as min over θ of CE + λ·penalty does for a penalty ≥ 0; for a falling loss, negate
loss, target and anchor. u is log λ scaled so that the range searched is [0, 1].
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from tune_interpreg.root_posterior import Array, RootPosterior

DRAWS = 500
COLLAPSED = 4.0  # noise floors; a residual above them that two others refute tells nothing of the curve
WITHIN_NOISE = 2.0  # a residual of at most this many noise floors reaches the target


@dataclass(frozen=True)
class Match:
    """The λ at which the loss equals the target.

    lambda_hat is the posterior mean of the root in log λ, exponentiated; low and high bound its central 90%;
    expected_residual is the posterior mean of loss - target at lambda_hat. Where no λ tried reaches the target,
    feasible is False, reason says why, and lambda_hat is the nearer end of the range.
    """

    lambda_hat: float
    low: float
    high: float
    expected_residual: float
    feasible: bool
    reason: str | None


def estimate(
    lambdas: ArrayLike,
    residuals: ArrayLike,
    *,
    bounds: tuple[float, float],
    noise: float,
    anchor_residual: float | None = None,
) -> Match:
    """Estimate the root of loss(λ) - target from all observations; never simply the one with the smallest |residual|.

    Args:
        lambdas: values tried, > 0, shape (N,), N ≥ 1.
        residuals: loss - target at each, shape (N,); ±inf counts as its sign only.
        bounds: the range searched, 0 < low < high.
        noise: floor of the residuals' standard deviation, > 0, in units of the loss.
        anchor_residual: loss - target as λ → 0, if known.

    Raises:
        ValueError: no observation, a NaN, a λ, range or noise out of bounds.
    """
    lambda_N, r_N = np.asarray(lambdas, float), np.asarray(residuals, float)
    _check_observations(lambda_N, r_N, bounds, noise)
    lambda_N, r_N = _credible(lambda_N, r_N, noise)
    with _one_thread():
        posterior = RootPosterior(_position(lambda_N, bounds), r_N, noise=noise, anchor=anchor_residual)
        u_M = posterior.roots(DRAWS, np.random.default_rng(0))
    reason = _obstacle(lambda_N, r_N, bounds, noise, anchor_residual)
    u = float(u_M.mean()) if reason is None else _nearer_end(r_N, u_M)
    low, high = min(u, np.quantile(u_M, 0.05)), max(u, np.quantile(u_M, 0.95))
    lambda_hat, low, high = _value(np.array([u, low, high]), bounds).tolist()
    return Match(lambda_hat, low, high, posterior.mean(u), reason is None, reason)


class LossMatchSampler(optuna.samplers.BaseSampler):
    """Propose λ where a noisy loss, rising with λ, may equal a target; stands on its own in any Optuna study.

    The first trials are stratified in log λ. Each later one is the root of one curve drawn from the posterior given
    the finished trials, with the curve taken as known where trials are running, so that parallel workers differ. A
    proposal depends on the seed, the trial's number, the finished and the running trials, and on nothing else.

    A trial reports loss - target as its user attribute "residual"; one that diverged or saturated reports "sign", +1
    or -1, alone. Its value, |residual|, is for dashboards.

    >>> sampler = LossMatchSampler("lambda", target=1.0, noise=0.01, anchor=0.0, seed=0)
    >>> study = optuna.create_study(sampler=sampler)
    >>> def objective(trial):
    ...     loss = 2 * trial.suggest_float("lambda", 1e-4, 10, log=True) ** 0.5  # 1 at λ = 0.25
    ...     trial.set_user_attr("residual", loss - 1.0)
    ...     return abs(loss - 1.0)
    >>> study.optimize(objective, n_trials=12)
    >>> match = best_match(study)
    >>> match.feasible, match.low < 0.25 < match.high, round(match.lambda_hat, 1)
    (True, True, 0.2)

    Args:
        parameter: name of λ, a float suggested with log=True; every other parameter must be fixed.
        target: the loss to reach.
        noise: floor of the loss's standard deviation, e.g. the reference's over seeds, > 0, in units of the loss.
        anchor: the loss as λ → 0, e.g. that of training without the penalty.
        startup: number of stratified trials, ≥ 1.
        seed: of the proposals, ≥ 0.

    Raises:
        ValueError: settings out of bounds, or on the first proposal a parameter it cannot sample.
    """

    def __init__(
        self,
        parameter: str,
        target: float,
        *,
        noise: float,
        anchor: float | None = None,
        startup: int = 4,
        seed: int,
    ) -> None:
        rules = {
            f"target must be finite, but is {target}": math.isfinite(target),
            f"noise must be finite and > 0, but is {noise}": math.isfinite(noise) and noise > 0,
            f"anchor must be finite or None, but is {anchor}": anchor is None or math.isfinite(anchor),
            f"startup must be ≥ 1, but is {startup}": startup >= 1,
            f"seed must be ≥ 0, but is {seed}": seed >= 0,
        }
        _raise_broken(rules)
        self.parameter = parameter
        self.noise = noise
        self.anchor_residual = None if anchor is None else anchor - target
        self._startup = startup
        self._seed = seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """No joint space: λ is sampled when it is suggested."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is sampled jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> float:
        """Propose λ; raises ValueError for another parameter or one that is not a float on a log scale."""
        self._raise_error_if_multi_objective(study)
        if param_name != self.parameter:
            raise ValueError(f"LossMatchSampler samples only {self.parameter!r}: fix {param_name!r}")
        bounds = _bounds(param_distribution, param_name)
        trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        u = self._propose(trials, trial.number, bounds)
        return float(np.clip(_value(np.array(u), bounds), *bounds))

    def _propose(self, trials: Sequence[FrozenTrial], number: int, bounds: tuple[float, float]) -> float:
        rng = np.random.default_rng((self._seed, number))
        lambda_N, r_N = _credible(*_observations(trials, self.parameter), self.noise)
        if number < self._startup or not r_N.size:
            return (_stratum(number % self._startup, self._startup) + rng.random()) / self._startup
        running = [t.params[self.parameter] for t in trials if _runs(t, self.parameter)]
        with _one_thread():
            posterior = RootPosterior(_position(lambda_N, bounds), r_N, noise=self.noise, anchor=self.anchor_residual)
            root = float(posterior.roots(1, rng, _position(np.array(running), bounds))[0])
        margin = 0.03 * rng.random()  # keeps workers apart where no drawn root lies inside
        return {0.0: margin, 1.0: 1 - margin}.get(root, root)


def best_match(study: optuna.Study) -> Match:
    """Estimate λ from a study's finished trials, with the noise and anchor of its LossMatchSampler.

    Raises:
        TypeError: the study's sampler is another one.
        ValueError: no finished trial carries a residual or a sign.
    """
    sampler = study.sampler
    if not isinstance(sampler, LossMatchSampler):
        raise TypeError(f"best_match needs a study with a LossMatchSampler, not {type(sampler).__name__}")
    trials = study.get_trials(deepcopy=False)
    lambda_N, r_N = _observations(trials, sampler.parameter)
    seen = [t.distributions[sampler.parameter] for t in trials if sampler.parameter in t.distributions]
    if not r_N.size:
        raise ValueError(f"study {study.study_name!r}: no finished trial carries a residual or a sign")
    bounds = _bounds(seen[-1], sampler.parameter)
    return estimate(lambda_N, r_N, bounds=bounds, noise=sampler.noise, anchor_residual=sampler.anchor_residual)


def _observations(trials: Sequence[FrozenTrial], parameter: str) -> tuple[Array, Array]:
    pairs = [(t.params[parameter], _residual(t)) for t in trials if t.state.is_finished() and parameter in t.params]
    lambda_N2 = np.array([pair for pair in pairs if not math.isnan(pair[1])], float).reshape(-1, 2)
    return lambda_N2[:, 0], lambda_N2[:, 1]


def _credible(lambda_N: Array, r_N: Array, noise: float) -> tuple[Array, Array]:
    """The observations without collapsed trainings, whose loss is far above what their λ explains.

    The loss rises with λ, so a residual above ``COLLAPSED`` noise floors is refuted by two negative ones at larger λ,
    where a third, negative at a smaller λ, shows that the curve does not fall.
    """
    larger_NN, below_N = lambda_N[None, :] > lambda_N[:, None], r_N < 0
    refuted_N = (larger_NN & below_N).sum(1) >= 2
    risen_N = (larger_NN.T & below_N).any(1)
    kept_N = ~((r_N > COLLAPSED * noise) & refuted_N & risen_N)
    return lambda_N[kept_N], r_N[kept_N]


def _residual(trial: FrozenTrial) -> float:
    """loss - target; ±inf where only the sign is known, NaN where nothing is."""
    residual = float(trial.user_attrs.get("residual", math.nan))
    if math.isnan(residual) and trial.user_attrs.get("sign"):
        return math.copysign(math.inf, trial.user_attrs["sign"])
    return residual


def _runs(trial: FrozenTrial, parameter: str) -> bool:
    return trial.state == TrialState.RUNNING and parameter in trial.params


def _one_thread() -> AbstractContextManager[object]:
    """Beside busy workers, BLAS's threads wait for each other a hundred times longer than these matrices take."""
    limits: AbstractContextManager[object] = threadpool_limits(1, "blas")
    return limits


def _stratum(index: int, count: int) -> int:
    """The index-th of count strata in van der Corput order, so that any first few are spread out."""
    width = max(1, (count - 1).bit_length())
    order = [int(f"{i:0{width}b}"[::-1], 2) for i in range(2**width)]
    return [stratum for stratum in order if stratum < count][index]


def _position(lambdas: Array, bounds: tuple[float, float]) -> Array:
    return np.asarray(np.log(lambdas / bounds[0]) / math.log(bounds[1] / bounds[0]))


def _value(u: Array, bounds: tuple[float, float]) -> Array:
    return np.asarray(bounds[0] * (bounds[1] / bounds[0]) ** u)


def _bounds(distribution: BaseDistribution, parameter: str) -> tuple[float, float]:
    if not isinstance(distribution, FloatDistribution) or not distribution.log:
        raise ValueError(f"{parameter}: LossMatchSampler needs a float with log=True, but got {distribution}")
    return distribution.low, distribution.high


def _nearer_end(r_N: Array, u_M: Array) -> float:
    if (r_N > 0).all() or (r_N < 0).all():
        return float(r_N[0] < 0)
    return float(u_M.mean() > 0.5)


def _obstacle(
    lambda_N: Array, r_N: Array, bounds: tuple[float, float], noise: float, anchor_residual: float | None
) -> str | None:
    """Why the target is not reached: no residual within noise of 0 and no change of sign from - to +."""
    if (np.abs(r_N) <= WITHIN_NOISE * noise).any():
        return None
    nearest = f"nearest residual {r_N[np.abs(r_N).argmin()]:+.4g}"
    tried = f"at every λ tried in [{bounds[0]:g}, {bounds[1]:g}]"
    if (r_N < 0).all():
        return f"the loss lies below the target {tried} ({nearest}): only a larger one could match"
    if (r_N > 0).all() and anchor_residual is not None and anchor_residual > WITHIN_NOISE * noise:
        return f"the loss lies above the target {tried} ({nearest}), and so does it as λ → 0: no λ matches"
    if (r_N > 0).all():
        return f"the loss lies above the target {tried} ({nearest}): only a smaller one could match"
    if lambda_N[r_N < 0].min() > lambda_N[r_N > 0].max():
        return f"the loss falls through the target in [{bounds[0]:g}, {bounds[1]:g}], but must rise with λ"
    return None


def _check_observations(lambda_N: Array, r_N: Array, bounds: tuple[float, float], noise: float) -> None:
    rules = {
        f"one residual a λ, at least one, but got {r_N.shape} for {lambda_N.shape}": (
            lambda_N.ndim == 1 and lambda_N.shape == r_N.shape and lambda_N.size > 0
        ),
        f"λ must be finite and > 0, but got {lambda_N}": bool(np.all(np.isfinite(lambda_N) & (lambda_N > 0))),
        f"residuals must not be NaN, but are {r_N}": not np.isnan(r_N).any(),
        f"bounds must be 0 < low < high, but are {bounds}": 0 < bounds[0] < bounds[1] < math.inf,
        f"noise must be finite and > 0, but is {noise}": math.isfinite(noise) and noise > 0,
    }
    _raise_broken(rules)


def _raise_broken(rules: dict[str, bool]) -> None:
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ValueError("; ".join(broken))
