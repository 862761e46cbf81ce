"""An Optuna sampler that finds the λ at which a noisy loss, rising with λ, equals a target.

A position u is log λ, scaled so that the searched range is [0, 1]. Shapes: N finished trials, R running trials, T all.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from tune_interpreg.search.matching.estimate import Match, estimate, from_position, raise_broken, to_position
from tune_interpreg.search.matching.posterior import Array, RootPosterior
from tune_interpreg.search.matching.signs import drop_collapsed

#: Roots averaged for a proposal. A single root strays too far for the noise to be averaged near the true root.
PROPOSED = 4


class LossMatchSampler(optuna.samplers.BaseSampler):
    """Propose λ at which a noisy loss, rising with λ, may equal a target. Works in any Optuna study.

    The first trials are stratified in log λ. Each later proposal is the mean root of a few curves, drawn from the
    posterior given the finished trials. Where trials are running, the curve is taken as known, so that parallel workers
    get different proposals. A proposal depends only on the seed, the trial's number, and the finished and running
    trials.

    A trial reports loss − target as its user attribute "residual". A trial that diverged or saturated reports "sign",
    +1 or −1, instead. A trial with neither is ignored. The trial's value, |residual|, is for dashboards.

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
    >>> match.low < 0.25 < match.high, abs(match.lambda_hat - 0.25) < 0.02, match.is_within(0.05)
    (True, True, True)

    Args:
        parameter: name of λ, a float suggested with log=True. Every other parameter must be fixed.
        target: the loss to reach.
        noise: smallest standard deviation of the loss, > 0, in units of the loss, such as the reference's over seeds.
        anchor: the loss as λ → 0, such as that of training without the penalty.
        startup: number of stratified trials, ≥ 1.
        seed: seed of the proposals, ≥ 0.
        among: values of other parameters. Only trials with all of these values count.

    Raises:
        ValueError: a setting is out of bounds, or on the first proposal a parameter cannot be sampled.
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
            f"noise must be finite and > 0, but is {noise}": 0 < noise < math.inf,
            f"anchor must be finite or None, but is {anchor}": anchor is None or math.isfinite(anchor),
            f"startup must be ≥ 1, but is {startup}": startup >= 1,
            f"seed must be ≥ 0, but is {seed}": seed >= 0,
        }
        raise_broken(rules)
        self.parameter, self.target, self.noise = parameter, target, noise
        self.anchor_residual = None if anchor is None else anchor - target
        self._startup, self._seed, self._among = startup, seed, dict(among or {})

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return no joint space: λ is sampled when it is suggested."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample nothing jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> float:
        """Propose λ; raise ValueError for another parameter, or for one that is not a float on a log scale."""
        if param_name != self.parameter:
            raise ValueError(f"LossMatchSampler samples only {self.parameter!r}: fix {param_name!r}")
        bounds = _bounds(param_distribution, param_name)
        alike = [other for other in study.get_trials(deepcopy=False) if self._among.items() <= other.params.items()]
        others = [other for other in alike if other.number != trial.number]
        u = self._propose(others, sum(other.number < trial.number for other in alike), bounds)
        return float(np.clip(from_position(np.array(u), bounds), *bounds))

    def _propose(self, trials: Sequence[FrozenTrial], number: int, bounds: tuple[float, float]) -> float:
        rng = np.random.default_rng((self._seed, number))
        lambda_N, r_N = drop_collapsed(*_observations(trials, self.parameter), self.noise)
        running = [t for t in trials if t.state == TrialState.RUNNING and self.parameter in t.params]
        running_R = to_position(np.array([t.params[self.parameter] for t in running]), bounds)
        if number >= self._startup and running_R.size and not r_N.size:
            return _draw_in_widest_gap(running_R, rng)
        if number < self._startup or not r_N.size:
            return (_stratum(number % self._startup, self._startup) + _draw_middle(rng)) / self._startup
        with threadpool_limits(1, "blas"):  # small matrices: threads only wait for each other while workers are busy
            u_N, anchor = to_position(lambda_N, bounds), self.anchor_residual
            posterior = RootPosterior(u_N, r_N, noise=self.noise, target=self.target, anchor=anchor)
            root = float(posterior.roots(PROPOSED, rng, running_R).mean())
        margin = 0.03 * rng.random()  # parallel proposals differ even if no drawn root lies inside the range
        return margin if root == 0 else 1 - margin if root == 1 else root


def best_match(study: optuna.Study) -> Match:
    """Estimate λ from a study's finished trials, with the noise and the anchor of its LossMatchSampler.

    Raises:
        ValueError: no finished trial carries a residual or a sign.
    """
    sampler = study.sampler
    if not isinstance(sampler, LossMatchSampler):
        raise TypeError(f"best_match needs a study with a LossMatchSampler, not {type(sampler).__name__}")
    trials = study.get_trials(deepcopy=False)
    lambda_N, r_N = _observations(trials, sampler.parameter)
    if not r_N.size:
        raise ValueError(f"study {study.study_name!r}: no finished trial carries a residual or a sign")
    distributions = [t.distributions[sampler.parameter] for t in trials if sampler.parameter in t.distributions]
    lows, highs = zip(*(_bounds(distribution, sampler.parameter) for distribution in distributions), strict=True)
    return estimate(
        lambda_N,
        r_N,
        bounds=(min(lows), max(highs)),  # a study may widen its range
        noise=sampler.noise,
        target=sampler.target,
        anchor_residual=sampler.anchor_residual,
    )


def _observations(trials: Sequence[FrozenTrial], parameter: str) -> tuple[Array, Array]:
    """Return λ and residual of the finished trials that have a residual or a sign."""
    finished = [trial for trial in trials if trial.state.is_finished() and parameter in trial.params]
    lambda_N = np.array([trial.params[parameter] for trial in finished])
    # A sign without a residual counts as ±inf.
    r_N = np.array([t.user_attrs.get("residual", math.inf * t.user_attrs.get("sign", math.nan)) for t in finished])
    return lambda_N[~np.isnan(r_N)], r_N[~np.isnan(r_N)]


def _stratum(index: int, count: int) -> int:
    """Return the stratum at ``index`` in van der Corput order, so that any first few of ``count`` are spread out."""
    width = max(1, (count - 1).bit_length())
    order = [int(f"{i:0{width}b}"[::-1], 2) for i in range(2**width)]
    return [stratum for stratum in order if stratum < count][index]


def _draw_in_widest_gap(running_R: Array, rng: np.random.Generator) -> float:
    """Draw u from the middle half of the widest gap between running trials.

    Used while no trial has finished. A gap at an end of the range counts twice, because no trial looks beyond the end.
    """
    u_R = np.sort(np.clip(running_R, 0, 1))
    edges = np.concatenate([[-u_R[0]], u_R, [2 - u_R[-1]]])
    widest = int(np.diff(edges).argmax())
    u = abs(edges[widest] + _draw_middle(rng) * (edges[widest + 1] - edges[widest]))
    return float(min(u, 2 - u))


def _draw_middle(rng: np.random.Generator) -> float:
    """Draw from the middle half of [0, 1], so that draws in neighbouring strata keep their distance."""
    return 0.25 + 0.5 * rng.random()


def _bounds(distribution: BaseDistribution, parameter: str) -> tuple[float, float]:
    if not isinstance(distribution, FloatDistribution) or not distribution.log:
        raise ValueError(f"{parameter}: LossMatchSampler needs a float with log=True, but got {distribution}")
    return distribution.low, distribution.high
