"""The paper's question answered in sentences, which claim no more than the intervals of ``answer`` allow."""

from __future__ import annotations

from dataclasses import replace

from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from analysis.tables.answer import MARGIN, Gain, Match, flattered, gains, matches, points
from analysis.tables.cells import Estimate

#: A gain counts as shown where its 95% interval excludes 0; a sentence adds where the corrected test does not agree.
ALPHA = 0.05


def sentences(results: Results) -> tuple[str, ...]:
    """One sentence for each arm, one for each matched training loss, and one on whether compat and strict part."""
    if results.standard is None:
        return ("No arm is of method standard, so that no gain over standard training can be told.",)
    found = gains(results)
    told = [_gain(results, one) for one in found]
    return (*told, *(_match(results, one, found) for one in matches(results)), *_parting(results, found))


# ---------------------------------------------------------------------- gains over standard training
def _gain(results: Results, one: Gain) -> str:
    ours, theirs = results.title(one.arm), results.title(results.standard or "")
    strict, compat = points(one.strict), points(one.compat)
    if strict is None or compat is None:
        return f"{ours}: no seed has a result both of it and of {theirs} yet."
    claim = _claim(ours, theirs, strict, compat)
    return f"{claim}{_corrected(one, strict, compat)}{_clean(points(one.clean))}; {_count(strict, results)}."


def _claim(ours: str, theirs: str, strict: Interval, compat: Interval) -> str:
    """Who is more robust, under strict and, where it says the same, in brackets under compat."""
    if not (_has_width(strict) or _has_width(compat)):
        both = f"{_said(strict)} points under strict, {_said(compat)} under compat"
        return f"{ours} against {theirs}: {both}, {_why(strict)}"
    if not (_has_width(strict) and _has_width(compat)):
        return f"{ours} against {theirs}: {_clause(strict)} under strict, {_clause(compat)} under compat"
    if strict.sign != compat.sign:
        return f"{ours} against {theirs}: {_clause(strict)} under strict, but {_clause(compat)} under compat"
    if strict.sign == 0:
        return (
            f"No difference in robustness between {ours} and {theirs} could be shown under strict"
            f" ({_said(strict)} points; {_said(compat)} under compat)"
        )
    way = "more" if strict.sign > 0 else "less"
    return f"{ours} is {_size(strict)} points {way} robust than {theirs} under strict ({_size(compat)} under compat)"


def _clause(interval: Interval) -> str:
    if not _has_width(interval):
        return f"{_said(interval)} points, {_why(interval)},"
    if interval.sign == 0:
        return f"no difference in robustness shown ({_said(interval)} points)"
    return f"{_size(interval)} points {'more' if interval.sign > 0 else 'less'} robust"


def _corrected(one: Gain, strict: Interval, compat: Interval) -> str:
    """Where an interval shows a gain that the test, corrected over all arms and both attacks, does not."""
    both = (("strict", strict, one.p_strict), ("compat", compat, one.p_compat))
    weak = [f"p = {_above_alpha(p)} under {form}" for form, interval, p in both if interval.sign and p and p > ALPHA]
    return f", which does not withstand Holm's correction ({', '.join(weak)})" if weak else ""


def _above_alpha(p: float) -> str:
    """A p > ALPHA to two decimals, or to as many as show that it is."""
    texts = (f"{p:.{decimals}f}" for decimals in range(2, 17))
    return next((text for text in texts if float(text) > ALPHA), str(p))


def _clean(clean: Interval | None) -> str:
    if clean is None or not _has_width(clean):
        return "" if clean is None else f"; clean accuracy: {_said(clean)} points, {_why(clean)}"
    if clean.inside(MARGIN):
        return f", at equal clean accuracy ({_said(clean)} points, within ±{MARGIN:g} point)"
    if clean.sign:
        return f", at a clean accuracy {_size(clean)} points {'higher' if clean.sign > 0 else 'lower'}"
    return f"; clean accuracy is shown neither equal within ±{MARGIN:g} point nor different ({_said(clean)} points)"


# ---------------------------------------------------------------------- at matched training loss
def _match(results: Results, one: Match, found: list[Gain]) -> str:
    ours, theirs = results.title(one.arm), results.title(one.reference)
    strict = points(one.strict)
    if one.residual is None or strict is None:
        return f"{ours} is to match the training loss of {theirs}, but no seed has a result of both yet."
    residual = f"residual {_said(one.residual)}, {one.verdict}; {_count(one.residual, results)}"
    if one.verdict.startswith("MISSED"):
        return f"{ours} misses the training loss of {theirs} ({residual}): at equal loss the two cannot be compared."
    whose = f"{ours}, towards the same maps permuted," if one.permuted else ours
    passed = one.verdict.startswith("PASS")
    loss = "At matched training loss" if passed else "At training losses shown neither equal nor different"
    return f"{loss} ({residual}), {whose} {_beside(strict, theirs)}{_kept(results, one, found)}."


def _beside(strict: Interval, theirs: str) -> str:
    if not _has_width(strict):
        return f"differs from {theirs} by {_said(strict)} points under strict, {_why(strict)}"
    if strict.sign == 0:
        return f"shows no difference in robustness from {theirs} under strict ({_said(strict)} points)"
    return f"is {_size(strict)} points {'more' if strict.sign > 0 else 'less'} robust than {theirs} under strict"


def _kept(results: Results, one: Match, found: list[Gain]) -> str:
    """What permuted maps keep of their reference's gain, where it is shown to gain."""
    gained = {gain.arm: points(gain.strict) for gain in found}
    ours, theirs = gained.get(one.arm), gained.get(one.reference)
    if not one.permuted or ours is None or theirs is None or theirs.sign <= 0 or not _has_width(ours):
        return ""
    return (
        f": permuted maps keep {_said(ours)} of the {_said(theirs)} points over {results.title(results.standard or '')}"
    )


# ---------------------------------------------------------------------- compat beside strict
def _parting(results: Results, found: list[Gain]) -> list[str]:
    """Whether the gains differ between compat and strict, and which arms compat flatters."""
    known = {one.arm: one.parts for one in found if one.parts is not None and one.parts.n > 1}
    if not known:
        return []
    parted = [
        f"{_size(parts)} points {'larger' if parts.mean > 0 else 'smaller'} for {results.title(arm)}{_always(parts)}"
        for arm, parts in known.items()
        if _differs(parts)
    ]
    if parted:
        return [f"Compat and strict part: under strict the gain is {_listed(parted)}{_flattery(results)}."]
    arm, most = max(known.items(), key=lambda pair: abs(pair[1].mean))
    if most.mean == 0:
        return ["Compat and strict agree: in every seed every gain is the same under both."]
    largest = f"{results.title(arm)}'s, {_said(most)} points"
    return [f"Compat and strict are not shown to part: the largest change of a gain is {largest}{_flattery(results)}."]


def _flattery(results: Results) -> str:
    known = {arm: interval for arm in results.study.arms if (interval := flattered(results, arm))}
    own = {arm: interval for arm, interval in known.items() if _differs(interval) and interval.mean > 0}
    named = [f"{results.title(arm)} by {_size(one)} points{_always(one)}" for arm, one in own.items()]
    return f"; compat flatters {_listed(named)}" if named else ""


# ---------------------------------------------------------------------- numbers in sentences
def _said(interval: Interval) -> str:
    """−0.1 ± 0.5, or a bare mean where there is no interval."""
    return Estimate(interval, 0, None).text if _has_width(interval) else f"{interval.mean:.3g}".replace("-", "−")


def _size(interval: Interval) -> str:
    return _said(replace(interval, mean=abs(interval.mean)))


def _has_width(interval: Interval) -> bool:
    return bool(interval.half_width)


def _differs(interval: Interval) -> bool:
    """Whether an interval excludes 0, or all of its seeds, more than one, have the same value beside 0."""
    return interval.sign != 0 or (interval.half_width == 0 and interval.mean != 0)


def _always(interval: Interval) -> str:
    return "" if _has_width(interval) else f" in all {interval.n} seeds"


def _why(interval: Interval) -> str:
    """Why there is no interval."""
    return "with one seed only" if interval.n == 1 else f"the same in all {interval.n} seeds"


def _count(interval: Interval, results: Results) -> str:
    return f"n = {interval.n}" + (f" of {results.asked} seeds" if interval.n < results.asked else "")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
