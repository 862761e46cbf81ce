"""The answer to the paper's question in sentences. They claim no more than the intervals of ``answer`` show."""

from __future__ import annotations

from dataclasses import replace

from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from analysis.tables.answer import (
    MARGIN,
    Gain,
    MatchedPair,
    compat_excess,
    compute_gains,
    compute_matches,
    points,
)
from analysis.tables.cells import Estimate

#: A gain is shown if its 95% interval excludes 0. A sentence adds if the corrected p-value is above this level.
ALPHA = 0.05

LEGEND = "Robustness is adversarial accuracy under the strict attack, in points."


def write_sentences(results: Results) -> tuple[str, ...]:
    """Return the unit, one sentence per arm, one per matched training loss, and one on compat against strict."""
    if results.standard is None:
        return ("No arm has the method standard, so there are no gains over standard training.",)
    gains = compute_gains(results)
    sentences = [LEGEND, *(_gain(results, gain) for gain in gains)]
    sentences += [_match(results, pair, gains) for pair in compute_matches(results)]
    sentences += _attack_forms(results, gains)
    return tuple(f"{sentence.rstrip('.')}." for sentence in sentences)  # a title may end with a dot


# ---------------------------------------------------------------------- gains over standard training
def _gain(results: Results, gain: Gain) -> str:
    ours, theirs = results.title(gain.arm), results.title(results.standard or "")
    strict, compat = points(gain.strict), points(gain.compat)
    if strict is None or compat is None:
        return f"{ours}: no seed has results of it and of {theirs} yet."
    claim = _robustness(ours, theirs, strict, compat)
    return f"{claim}{_correction(gain, strict, compat)}{_clean(points(gain.clean))}; {_count(strict, results)}."


def _robustness(ours: str, theirs: str, strict: Interval, compat: Interval) -> str:
    """Compare two arms under strict, with compat in brackets if both say the same."""
    if strict.sign == compat.sign and _has_width(strict) == _has_width(compat):
        compat_number = _size(compat) if compat.sign else _number(compat)
        return _compare(ours, theirs, strict, f" (compat: {compat_number})")
    return f"{ours} against {theirs}: {_clause(strict)} under strict, but {_clause(compat)} under compat"


def _compare(ours: str, theirs: str, strict: Interval, compat: str = "") -> str:
    if not _has_width(strict):
        return f"{ours} − {theirs}: {_number(strict)} points{compat}, {_why_no_interval(strict)}"
    if strict.sign == 0:
        return f"{ours} shows no difference in robustness from {theirs}: {_number(strict)} points{compat}"
    return f"{ours} is {_size(strict)} points {'more' if strict.sign > 0 else 'less'} robust than {theirs}{compat}"


def _clause(interval: Interval) -> str:
    if not _has_width(interval):
        return f"{_number(interval)} points ({_why_no_interval(interval)})"
    if interval.sign == 0:
        return f"no difference shown ({_number(interval)} points)"
    return f"{_size(interval)} points {'more' if interval.sign > 0 else 'less'} robust"


def _correction(gain: Gain, strict: Interval, compat: Interval) -> str:
    """Say that an interval shows a gain but the test, corrected over all arms and both attacks, does not."""
    forms = (("strict", strict, gain.p_strict), ("compat", compat, gain.p_compat))
    weak = [f"p = {format_above(p)} under {form}" for form, interval, p in forms if interval.sign and p and p > ALPHA]
    return f", but not significant after Holm's correction ({', '.join(weak)})" if weak else ""


def format_above(p: float) -> str:
    """Return a p > ALPHA with two decimals, or with as many as show that it is above ALPHA."""
    texts = (f"{p:.{decimals}f}" for decimals in range(2, 17))
    return next((text for text in texts if float(text) > ALPHA), str(p))


def _clean(clean: Interval | None) -> str:
    if clean is None:
        return ""
    if not _has_width(clean):
        return f"; clean accuracy: {_number(clean)} points, {_why_no_interval(clean)}"
    if clean.lies_within(MARGIN):
        return f"; clean accuracy is equal within ±{MARGIN:g} ({_number(clean)})"
    if clean.sign:
        return f"; clean accuracy is {_size(clean)} points {'higher' if clean.sign > 0 else 'lower'}"
    return f"; clean accuracy is not shown to be equal within ±{MARGIN:g} or different ({_number(clean)})"


# ---------------------------------------------------------------------- at matched training loss
def _match(results: Results, pair: MatchedPair, gains: list[Gain]) -> str:
    ours, theirs = results.title(pair.arm), results.title(pair.reference)
    strict = points(pair.strict)
    if pair.residual is None or strict is None:
        return f"{ours} matches the training loss of {theirs}, but no seed has results of both yet."
    residual = f"residual {_number(pair.residual)}, {pair.verdict}; {_count(pair.residual, results)}"
    if pair.verdict.startswith("MISSED"):
        return f"{ours} misses the training loss of {theirs} ({residual}), so they are not compared at equal loss."
    permuted = f"{ours} (the same maps, permuted)" if pair.permuted else ours
    if pair.verdict.startswith("PASS"):
        loss = "At matched training loss"
    else:
        loss = "At training losses that are not shown to be equal or different"
    return f"{loss} ({residual}), {_compare(permuted, theirs, strict)}{_share_of_gain(results, pair, gains)}."


def _share_of_gain(results: Results, pair: MatchedPair, gains: list[Gain]) -> str:
    """Compare the gain of permuted maps with the reference's gain, if the reference is shown to gain."""
    by_arm = {gain.arm: points(gain.strict) for gain in gains}
    ours, theirs = by_arm.get(pair.arm), by_arm.get(pair.reference)
    if not pair.permuted or ours is None or theirs is None or theirs.sign <= 0 or not _has_width(ours):
        return ""
    standard = results.title(results.standard or "")
    return f". Its gain over {standard} is {_number(ours)} points, with unpermuted maps {_number(theirs)}"


# ---------------------------------------------------------------------- compat against strict
def _attack_forms(results: Results, gains: list[Gain]) -> list[str]:
    """Say if the gains differ between compat and strict, and which arms compat overestimates."""
    changes = {
        gain.arm: gain.strict_minus_compat
        for gain in gains
        if gain.strict_minus_compat is not None and gain.strict_minus_compat.n > 1
    }
    if not changes:
        return []
    shown = [
        f"{_size(change)} points {'larger' if change.mean > 0 else 'smaller'} for {results.title(arm)}"
        + _in_all_seeds(change)
        for arm, change in changes.items()
        if _differs(change)
    ]
    if shown:
        return [f"Compat and strict differ: under strict the gain is {_join(shown)}{_overestimates(results)}."]
    arm, largest = max(changes.items(), key=lambda pair: abs(pair[1].mean))
    if largest.mean == 0:
        return ["Compat and strict agree: every gain is the same under both in every seed."]
    change = f"the largest change of a gain is {_number(largest)} points, of {results.title(arm)}"
    return [f"No difference between compat and strict is shown: {change}{_overestimates(results)}."]


def _overestimates(results: Results) -> str:
    parts = []
    for arm in results.study.arms:
        excess = compat_excess(results, arm)
        if excess and _differs(excess) and excess.mean > 0:
            parts.append(f"{results.title(arm)} by {_size(excess)} points{_in_all_seeds(excess)}")
    return f"; compat overestimates {_join(parts)}" if parts else ""


# ---------------------------------------------------------------------- numbers in sentences
def _number(interval: Interval) -> str:
    """Return −0.1 ± 0.5, or a bare mean without an interval."""
    if _has_width(interval):
        return Estimate(interval, 0, None).text
    return f"{interval.mean:.3g}".replace("-", "−")


def _size(interval: Interval) -> str:
    return _number(replace(interval, mean=abs(interval.mean)))


def _has_width(interval: Interval) -> bool:
    return bool(interval.half_width)


def _differs(interval: Interval) -> bool:
    """Return True if an interval excludes 0, or if all of several seeds have the same value other than 0."""
    return interval.sign != 0 or (interval.half_width == 0 and interval.mean != 0)


def _in_all_seeds(interval: Interval) -> str:
    return "" if _has_width(interval) else f" in all {interval.n} seeds"


def _why_no_interval(interval: Interval) -> str:
    return "with one seed only" if interval.n == 1 else f"the same in all {interval.n} seeds"


def _count(interval: Interval, results: Results) -> str:
    return f"n = {interval.n}" + (f" of {results.seed_count} seeds" if interval.n < results.seed_count else "")


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
