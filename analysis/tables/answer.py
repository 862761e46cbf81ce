"""The paper's question in numbers: what each arm gains over standard training, and what stays at equal training loss.

Points are percentage points of accuracy on test images; every difference is paired by seed.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis import paper
from analysis.results.results import Results
from analysis.statistics.intervals import Interval, differences, student_t
from analysis.statistics.pairs import Comparison, holm
from analysis.tables.accuracy import lacking, teacher_note
from analysis.tables.cells import ABSENT, Cell, Estimate, Probability, Source, Table
from analysis.tables.settings import match

#: Two clean accuracies count as equal where the 95% interval of their difference lies within this many points.
MARGIN = 1.0


@dataclass(frozen=True)
class Gain:
    """One arm against standard training.

    compat, strict: of adversarial accuracy; clean: of clean accuracy; fractions. p_compat, p_strict: after Holm's
    correction over both attacks and all arms. parts: the gain under strict − that under compat, points, or None.
    """

    arm: str
    compat: Comparison
    strict: Comparison
    clean: Comparison
    p_compat: float | None
    p_strict: float | None
    parts: Interval | None


@dataclass(frozen=True)
class Match:
    """One arm that matches another's training loss, against that arm.

    permuted: whether its targets are the reference's, permuted. residual: of training losses, in their unit.
    verdict: as ``settings.match`` says it.
    compat, strict: of adversarial accuracy, fractions.
    """

    arm: str
    reference: str
    permuted: bool
    residual: Interval | None
    verdict: str
    compat: Comparison
    strict: Comparison


def points(one: Comparison) -> Interval | None:
    """A difference of fractions in percentage points."""
    return one.difference and one.difference.scaled(100)


def gains(results: Results) -> list[Gain]:
    """Every arm but standard training, against it; none where the study has no such arm."""
    standard = results.standard
    arms = [arm for arm in results.study.arms if arm != standard] if standard else []
    compat, strict, clean = (
        [results.compare(arm, standard or "", metric) for arm in arms]
        for metric in (paper.ADV_COMPAT, paper.ADV_STRICT, paper.ACCURACY)
    )
    corrected = holm([one.p for one in (*compat, *strict)])
    p_compat, p_strict = corrected[: len(arms)], corrected[len(arms) :]
    parts = [_parts(results, arm, standard or "") for arm in arms]
    return [Gain(*one) for one in zip(arms, compat, strict, clean, p_compat, p_strict, parts, strict=True)]


def matches(results: Results) -> list[Match]:
    """Every arm whose training loss matches another's, against that one."""
    found = []
    for name, arm in results.study.arms.items():
        reference = arm.search.match_loss_of if arm.search else None
        if arm.search is None or reference is None:
            continue
        compat, strict = (results.compare(name, reference, metric) for metric in (paper.ADV_COMPAT, paper.ADV_STRICT))
        residual = results.compare(name, reference, arm.search.matched).difference
        permuted, verdict = _permutes(results, name, reference), match(results, name)
        found.append(Match(name, reference, permuted, residual, verdict, compat, strict))
    return found


def flattered(results: Results, arm: str) -> Interval | None:
    """An arm's adversarial accuracy under compat − under strict, points, by seed; None where no seed has both."""
    by_seed = _flattered(results, arm)
    return student_t(by_seed.values()).scaled(100) if by_seed else None


def gain_table(results: Results) -> Table:
    """What each arm gains over standard training under both attacks, and what it costs in clean accuracy."""
    columns = (
        *("Arm", "Gain (compat)", "p, compat", "Gain (strict)", "p, strict", "Strict − compat"),
        *("Std. Acc.", f"Within ±{MARGIN:g}", "Compat − strict, own"),
    )
    forms = (paper.ADV_COMPAT, paper.ADV_STRICT)
    body = tuple(
        (
            results.title(one.arm),
            *(_estimate(results, points(one.compat), both, paper.ADV_COMPAT), Probability(one.p_compat)),
            *(_estimate(results, points(one.strict), both, paper.ADV_STRICT), Probability(one.p_strict)),
            _estimate(results, one.parts, both, *forms),
            *(_estimate(results, points(one.clean), both, paper.ACCURACY), _equal(points(one.clean))),
            _estimate(results, flattered(results, one.arm), (one.arm,), *forms),
        )
        for one in gains(results)
        for both in [(one.arm, results.standard or "")]
    )
    title = f"Answer. Gains over {results.title(results.standard)}, points" if results.standard else "Answer. Gains"
    metrics = (paper.ACCURACY, paper.ADV_COMPAT, paper.ADV_STRICT)
    told = (*_gain_notes(body), *teacher_note(results), *lacking(results, metrics))
    return Table(title, columns, body, told)


def match_table(results: Results) -> Table:
    """How arms that match another's training loss compare with it."""
    columns = ("Arm", "Reference", "Residual", "Match", "Adv. Acc. (compat)", "Adv. Acc. (strict)", "p, strict")
    found = matches(results)
    body = tuple(
        (
            results.title(one.arm),
            results.title(one.reference),
            *(_estimate(results, one.residual, both, _matched(results, one.arm), scale=1), one.verdict),
            _estimate(results, points(one.compat), both, paper.ADV_COMPAT),
            *(_estimate(results, points(one.strict), both, paper.ADV_STRICT), Probability(one.strict.p)),
        )
        for one in found
        for both in [(one.arm, one.reference)]
    )
    note = (
        "Arm − reference, paired by seed: mean ± half-width of the 95% Student t interval. Residual: of their training"
        " losses; Match: as under the settings. Adv. Acc.: points, at equal training loss where it says PASS, at losses"
        " shown neither equal nor different where it says NOT SHOWN, and at different ones where it says MISSED. p:"
        " two-sided paired t test, not corrected."
    )
    named = {arm for one in found for arm in (one.arm, one.reference)}
    losses = [_matched(results, one.arm) for one in found]
    metrics = dict.fromkeys([*losses, paper.ADV_COMPAT, paper.ADV_STRICT])
    return Table("Answer. At matched training loss", columns, body, (note, *lacking(results, metrics, named)))


def _estimate(
    results: Results, interval: Interval | None, arms: tuple[str, ...], *metrics: str, scale: float = 100
) -> Estimate:
    sources = tuple(Source(arm, metric, scale) for arm in arms for metric in metrics)
    return Estimate(interval, results.asked, decimals=None, sources=sources)


def _matched(results: Results, arm: str) -> str:
    search = results.study.arms[arm].search
    assert search
    return search.matched


def _equal(clean: Interval | None) -> Cell:
    return ABSENT if clean is None or clean.half_width is None else "yes" if clean.inside(MARGIN) else "not shown"


def _gain_notes(body: tuple[tuple[Cell, ...], ...]) -> list[str]:
    tests = sum(cell.p is not None for row in body for cell in row if isinstance(cell, Probability))
    return [
        "Gain: the arm's adversarial accuracy − standard training's, points, paired by seed: mean ± half-width of the"
        " 95% Student t interval over the seeds that both have. p: two-sided paired t test, corrected by Holm over the"
        f" {tests} tests of this table. Strict − compat: the gain under strict − the gain under compat.",
        f"Std. Acc.: clean accuracy − standard training's, points; within ±{MARGIN:g}: yes where the whole 95% interval"
        " lies there, so that the two count as equal. Compat − strict, own: the arm's adversarial accuracy under compat"
        " − under strict, points.",
    ]


def _parts(results: Results, arm: str, standard: str) -> Interval | None:
    ours, theirs = _flattered(results, arm), _flattered(results, standard)
    parts = Comparison.from_seeds(theirs, ours).difference
    return parts and parts.scaled(100)


def _flattered(results: Results, arm: str) -> dict[int, float]:
    return differences(results.values(arm, paper.ADV_COMPAT), results.values(arm, paper.ADV_STRICT))


def _permutes(results: Results, name: str, reference: str) -> bool:
    """Whether an arm trains towards the maps that its reference trains towards, permuted."""
    ours, theirs = results.study.arms[name].targets, results.study.arms[reference].targets
    if ours is None or theirs is None or ours.permute is None or theirs.permute is not None:
        return False
    return ours.teacher == theirs.teacher and ours.maps == theirs.maps
