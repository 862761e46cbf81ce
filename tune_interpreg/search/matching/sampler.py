"""An Optuna sampler that finds the λ at which a noisy metric, rising or falling with λ, equals a target.

A position u is log λ, scaled so that the searched range is [0, 1]. Shapes: N finished trials, R running trials.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from tune_interpreg.search.matching.estimate import (
    Match,
    estimate,
    from_position,
    one_thread,
    raise_broken,
    to_position,
)
from tune_interpreg.search.matching.posterior import RootPosterior, choose_share
from tune_interpreg.search.matching.signs import Direction, find_direction, orient
from tune_interpreg.search.matching.steps import Array


def propose(
    lambdas: ArrayLike,
    residuals: ArrayLike,
    running: ArrayLike,
    *,
    bounds: tuple[float, float],
    noise: float,
    target: float,
    direction: Direction | None = "rising",
    parallel: int = 4,
    seed: int,
    number: int,
) -> float:
    """Return the λ of trial ``number``: a function of its arguments only.

    Trials divide the probability of the root into equal parts: of a uniform distribution while nothing is known, then
    of the posterior. So one trial at a time bisects, and w at a time search w + 1 parts.

    Args:
        lambdas, residuals: of the finished trials, shape (N,), as in ``estimate``.
        running: λ of the running trials, shape (R,).
        bounds, noise, target: as in ``estimate``.
        direction: whether the metric rises or falls with λ. None: as the finished trials show. Until they do, trials
            are spread evenly.
        parallel: number of trials that run at the same time, ≥ 1.
        seed, number: seed of a jitter, which keeps trials different.
    """
    lambda_N, r_N = np.asarray(lambdas, float), np.asarray(residuals, float)
    running_R = to_position(np.asarray(running, float), bounds)
    jitter = 2 * np.random.default_rng((seed, number)).random() - 1
    direction = direction or find_direction(lambda_N, r_N, noise)
    if not r_N.size:
        u = choose_share(running_R, parallel, jitter)
    elif direction is None:
        u = choose_share(np.append(running_R, to_position(lambda_N, bounds)), max(parallel, r_N.size + 1), jitter)
    else:
        with one_thread():
            oriented = target if direction == "rising" else -target
            posterior = RootPosterior(
                to_position(lambda_N, bounds), orient(r_N, direction), noise=noise, target=oriented
            )
            u = posterior.propose(running_R, parallel, jitter)
    return float(np.clip(from_position(np.array(u), bounds), *bounds))


class LossMatchSampler(optuna.samplers.BaseSampler):
    """Propose λ at which a noisy metric may equal a target. Works in any Optuna study. See ``propose``.

    A proposal depends only on the seed, the trial's number, and the finished and running trials.

    A trial reports value − target as its user attribute "residual". A trial that diverged reports "sign", +1, instead:
    its λ may be too large. A trial with neither is ignored. The trial's value, |residual|, is for dashboards.

    >>> import numpy as np, optuna
    >>> from tune_interpreg.search.matching.sampler import LossMatchSampler, best_match
    >>> rng = np.random.default_rng(0)
    >>> def objective(trial):
    ...     strength = trial.suggest_float("lambda", 1e-4, 10, log=True)
    ...     loss = 2 * strength**0.5 + rng.normal(scale=0.02)  # 1 at λ = 0.25, but for the noise
    ...     trial.set_user_attr("residual", loss - 1.0)
    ...     return abs(loss - 1.0)
    >>> study = optuna.create_study(sampler=LossMatchSampler("lambda", target=1.0, noise=0.02, seed=0))
    >>> study.optimize(objective, n_trials=12)
    >>> match = best_match(study)
    >>> match.low < 0.25 < match.high, abs(match.lambda_hat - 0.25) < 0.02, match.is_within(0.05)
    (True, True, True)

    Args:
        parameter: name of λ, a float suggested with log=True. Every other parameter must be fixed.
        target: the value to reach.
        noise: smallest standard deviation of the metric, > 0, in its units, such as the reference's over seeds.
        anchor: the metric as λ → 0, such as that of training without the penalty; for ``best_match``.
        direction: whether the metric rises or falls with λ. None: as the trials show.
        parallel: number of trials that run at the same time, ≥ 1.
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
        direction: Direction | None = "rising",
        parallel: int = 4,
        seed: int,
        among: Mapping[str, Any] | None = None,
    ) -> None:
        rules = {
            f"target must be finite, but is {target}": math.isfinite(target),
            f"noise must be finite and > 0, but is {noise}": 0 < noise < math.inf,
            f"anchor must be finite or None, but is {anchor}": anchor is None or math.isfinite(anchor),
            f"direction must be rising, falling or None, but is {direction!r}": (
                direction in ("rising", "falling", None)
            ),
            f"parallel must be ≥ 1, but is {parallel}": parallel >= 1,
            f"seed must be ≥ 0, but is {seed}": seed >= 0,
        }
        raise_broken(rules)
        self.parameter, self.target, self.noise, self.direction = parameter, target, noise, direction
        self.anchor_residual = None if anchor is None else anchor - target
        self._parallel, self._seed, self._among = parallel, seed, dict(among or {})

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
        alike = [other for other in study.get_trials(deepcopy=False) if self._among.items() <= other.params.items()]
        others = [other for other in alike if other.number != trial.number]
        lambda_N, r_N = _observations(others, self.parameter)
        running = [t for t in others if t.state == TrialState.RUNNING and self.parameter in t.params]
        return propose(
            lambda_N,
            r_N,
            [t.params[self.parameter] for t in running],
            bounds=_bounds(param_distribution, param_name),
            noise=self.noise,
            target=self.target,
            direction=self.direction,
            parallel=self._parallel,
            seed=self._seed,
            number=sum(other.number < trial.number for other in alike),
        )


def best_match(study: optuna.Study) -> Match:
    """Estimate λ from a study's finished trials, with the settings of its LossMatchSampler.

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
        direction=sampler.direction,
    )


def _observations(trials: Sequence[FrozenTrial], parameter: str) -> tuple[Array, Array]:
    """Return λ and residual of the finished trials that have a residual or a sign."""
    finished = [trial for trial in trials if trial.state.is_finished() and parameter in trial.params]
    lambda_N = np.array([trial.params[parameter] for trial in finished])
    # A sign without a residual counts as ±inf.
    r_N = np.array([t.user_attrs.get("residual", math.inf * t.user_attrs.get("sign", math.nan)) for t in finished])
    return lambda_N[~np.isnan(r_N)], r_N[~np.isnan(r_N)]


def _bounds(distribution: BaseDistribution, parameter: str) -> tuple[float, float]:
    if not isinstance(distribution, FloatDistribution) or not distribution.log:
        raise ValueError(f"{parameter}: LossMatchSampler needs a float with log=True, but got {distribution}")
    return distribution.low, distribution.high
