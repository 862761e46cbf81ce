"""Find λ so that a noisy training loss equals a target: an Optuna sampler and the estimate it ends with.

The loss is taken to rise with λ, as min over θ of CE + λ·penalty does for a penalty ≥ 0; for a falling loss, negate
loss, target and anchor. u is log λ scaled so that the range searched is [0, 1].
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from tune_interpreg.search.matching import signs
from tune_interpreg.search.matching.posterior import Array, RootPosterior
from tune_interpreg.search.matching.signs import widened

__all__ = ["LossMatchSampler", "Match", "best_match", "estimate", "widened"]

DRAWS = 500
PROPOSED = (
    4  # roots whose mean is tried next: a single one strays too far for a noisy loss to be averaged near the root
)


@dataclass(frozen=True)
class Match:
    """The λ at which the loss equals the target.

    lambda_hat is the posterior mean of the root in log λ, exponentiated; low and high bound its central 90%;
    expected_residual, residual_low and residual_high are the posterior mean of loss - target at the three. Where no
    λ tried reaches the target, feasible is False, reason says why, and lambda_hat is the nearer end of the range.
    """

    lambda_hat: float
    low: float
    high: float
    expected_residual: float
    residual_low: float
    residual_high: float
    feasible: bool
    reason: str | None

    def within(self, tolerance: float) -> bool:
        """Whether the search may stop: feasible, and the interval maps to losses within ``tolerance`` of the target.

        tolerance: e.g. the standard error of the target, in units of the loss; raises ValueError unless it is > 0.
        """
        if not tolerance > 0:
            raise ValueError(f"tolerance must be > 0, but is {tolerance}")
        return self.feasible and max(abs(self.residual_low), abs(self.residual_high)) <= tolerance


def estimate(
    lambdas: ArrayLike,
    residuals: ArrayLike,
    *,
    bounds: tuple[float, float],
    noise: float,
    target: float | None = None,
    anchor_residual: float | None = None,
) -> Match:
    """Estimate the root of loss(λ) - target from all observations; never simply the one with the smallest |residual|.

    Args:
        lambdas: values tried, > 0, shape (N,), N ≥ 1.
        residuals: loss - target at each, shape (N,); ±inf counts as its sign only, as does one that dwarfs the others.
        bounds: the range searched, 0 < low < high.
        noise: floor of the residuals' standard deviation, > 0, in units of the loss.
        target: the loss to reach, if known: it tells how losses grow.
        anchor_residual: loss - target as λ → 0, if known.

    Raises:
        ValueError: no observation, a NaN, a λ, range or noise out of bounds.
    """
    lambda_N, r_N = np.asarray(lambdas, float), np.asarray(residuals, float)
    _check_observations(lambda_N, r_N, bounds, noise)
    lambda_N, r_N = signs.credible(lambda_N, r_N, noise)
    with _one_thread():
        u_N = _position(lambda_N, bounds)
        posterior = RootPosterior(u_N, r_N, noise=noise, target=target, anchor=anchor_residual)
        u_M = posterior.roots(DRAWS, np.random.default_rng(0))
    reason = signs.obstacle(lambda_N, r_N, bounds, noise, anchor_residual)
    u = float(u_M.mean()) if reason is None else signs.nearer_end(r_N, u_M)
    u_3 = [u, min(u, float(np.quantile(u_M, 0.05))), max(u, float(np.quantile(u_M, 0.95)))]
    lambda_hat, low, high = _value(np.array(u_3), bounds).tolist()
    expected, at_low, at_high = [posterior.mean(one) for one in u_3]
    return Match(lambda_hat, low, high, expected, at_low, at_high, reason is None, reason)


class LossMatchSampler(optuna.samplers.BaseSampler):
    """Propose λ where a noisy loss, rising with λ, may equal a target; stands on its own in any Optuna study.

    The first trials are stratified in log λ. Each later one is the mean root of a few curves drawn from the posterior
    given the finished trials, with the curve taken as known where trials are running, so that parallel workers differ.
    A proposal depends on the seed, the trial's number, the finished and the running trials, and on nothing else.

    A trial reports loss - target as its user attribute "residual"; one that diverged or saturated reports "sign", +1
    or -1, alone. Its value, |residual|, is for dashboards. A trial that reports neither is passed over.

    >>> import numpy as np, optuna
    >>> from tune_interpreg.search.matching.sampler import LossMatchSampler, best_match
    >>> rng = np.random.default_rng(0)
    >>> def objective(trial):
    ...     strength = trial.suggest_float("lambda", 1e-4, 10, log=True)
    ...     loss = 2 * strength**0.5 + rng.normal(scale=0.02)  # 1 at λ = 0.25, but for the noise
    ...     trial.set_user_attr("residual", loss - 1.0)
    ...     return abs(loss - 1.0)
    >>> study = optuna.create_study(sampler=LossMatchSampler("lambda", target=1.0, noise=0.02, anchor=0.0, seed=0))
    >>> study.optimize(objective, n_trials=12)
    >>> match = best_match(study)
    >>> match.low < 0.25 < match.high, abs(match.lambda_hat - 0.25) < 0.02, match.within(0.05)
    (True, True, True)

    Args:
        parameter: name of λ, a float suggested with log=True; every other parameter must be fixed.
        target: the loss to reach.
        noise: floor of the loss's standard deviation, e.g. the reference's over seeds, > 0, in units of the loss.
        anchor: the loss as λ → 0, e.g. that of training without the penalty.
        startup: number of stratified trials, ≥ 1.
        seed: of the proposals, ≥ 0.
        among: values of other parameters; only the trials with all of them count, as if there were no others.

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
        among: Mapping[str, Any] | None = None,
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
        self.target = target
        self.noise = noise
        self.anchor_residual = None if anchor is None else anchor - target
        self._startup = startup
        self._seed = seed
        self._among = dict(among or {})

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
        alike = [other for other in study.get_trials(deepcopy=False) if self._counts(other)]
        trials = [other for other in alike if other.number != trial.number]
        u = self._propose(trials, sum(other.number < trial.number for other in alike), bounds)
        return float(np.clip(_value(np.array(u), bounds), *bounds))

    def _counts(self, trial: FrozenTrial) -> bool:
        return all(trial.params.get(name) == value for name, value in self._among.items())

    def _propose(self, trials: Sequence[FrozenTrial], number: int, bounds: tuple[float, float]) -> float:
        rng = np.random.default_rng((self._seed, number))
        lambda_N, r_N = signs.credible(*_observations(trials, self.parameter), self.noise)
        running_R = _position(np.array([t.params[self.parameter] for t in trials if _runs(t, self.parameter)]), bounds)
        if number >= self._startup and running_R.size and not r_N.size:
            return _in_widest_gap(running_R, rng)
        if number < self._startup or not r_N.size:
            return (_stratum(number % self._startup, self._startup) + _middle(rng)) / self._startup
        with _one_thread():
            u_N, anchor = _position(lambda_N, bounds), self.anchor_residual
            posterior = RootPosterior(u_N, r_N, noise=self.noise, target=self.target, anchor=anchor)
            root = float(posterior.roots(PROPOSED, rng, running_R).mean())
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
    ends_T2 = [_bounds(distribution, sampler.parameter) for distribution in seen]  # a widened range holds the others
    bounds = min(low for low, _ in ends_T2), max(high for _, high in ends_T2)
    return estimate(
        lambda_N,
        r_N,
        bounds=bounds,
        noise=sampler.noise,
        target=sampler.target,
        anchor_residual=sampler.anchor_residual,
    )


def _observations(trials: Sequence[FrozenTrial], parameter: str) -> tuple[Array, Array]:
    pairs = [(t.params[parameter], _residual(t)) for t in trials if t.state.is_finished() and parameter in t.params]
    lambda_N2 = np.array([pair for pair in pairs if not math.isnan(pair[1])], float).reshape(-1, 2)
    return lambda_N2[:, 0], lambda_N2[:, 1]


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


def _in_widest_gap(running_R: Array, rng: np.random.Generator) -> float:
    """Where more trials start than are stratified, and none has finished: in the middle half of the widest gap.

    A gap at an end of the range counts twice, as if the range went on as its own mirror image: nobody looks beyond.
    """
    u_R = np.sort(np.clip(running_R, 0, 1))
    edges = np.concatenate([[-u_R[0]], u_R, [2 - u_R[-1]]])
    widest = int(np.diff(edges).argmax())
    u = abs(edges[widest] + _middle(rng) * (edges[widest + 1] - edges[widest]))
    return float(min(u, 2 - u))


def _middle(rng: np.random.Generator) -> float:
    """A place in the middle half of [0, 1]: of neighbours' places, no two are far apart or close together."""
    return 0.25 + 0.5 * rng.random()


def _position(lambdas: Array, bounds: tuple[float, float]) -> Array:
    return np.asarray(np.log(lambdas / bounds[0]) / math.log(bounds[1] / bounds[0]))


def _value(u: Array, bounds: tuple[float, float]) -> Array:
    return np.asarray(bounds[0] * (bounds[1] / bounds[0]) ** u)


def _bounds(distribution: BaseDistribution, parameter: str) -> tuple[float, float]:
    if not isinstance(distribution, FloatDistribution) or not distribution.log:
        raise ValueError(f"{parameter}: LossMatchSampler needs a float with log=True, but got {distribution}")
    return distribution.low, distribution.high


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
