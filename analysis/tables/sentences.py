"""The answer to the paper's question in sentences. They claim no more than the intervals of ``answer`` show."""

from dataclasses import replace

from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from analysis.tables.answer import MARGIN, Gain, MatchedPair, compat_excess, compute_gains, compute_matches
from analysis.tables.association import describe_association
from analysis.tables.cells import Estimate
from analysis.tables.settings import TRAINING_LOSS, name_matched

#: A gain is shown if its 95% interval excludes 0. A sentence adds if the corrected p-value is above this level.
ALPHA = 0.05

LEGEND = "Robustness is adversarial accuracy under strict, in points; in brackets: the difference under compat."


def write_sentences(results: Results) -> tuple[str, ...]:
    """Return the unit, one sentence per arm, one per matched training loss, and one on compat against strict."""
    if results.standard is None:
        return ("No arm has the method standard, so there are no gains over standard training.",)
    gains = compute_gains(results)
    sentences = [LEGEND, *(_gain(results, gain) for gain in gains)]
    sentences += [_match(results, pair, gains) for pair in compute_matches(results)]
    sentences += [*_attack_forms(results, gains), *describe_association(results)]
    return tuple(f"{sentence.rstrip('.')}." for sentence in sentences)  # a title may end with a dot


# ---------------------------------------------------------------------- gains over standard training
def _gain(results: Results, gain: Gain) -> str:
    ours, theirs = results.title(gain.arm), results.title(results.standard or "")
    strict, compat = gain.strict.difference, gain.compat.difference
    if strict is None or compat is None:
        return f"{ours}: no seed has results of it and of {theirs} yet."
    claim = _compare(ours, theirs, strict, f" (compat: {_number(compat)})")
    return f"{claim}{_correction(gain)}{_clean(gain.clean.difference)}; {_count(strict, results)}."


def _compare(ours: str, theirs: str, strict: Interval, compat: str = "") -> str:
    if not strict.half_width:
        return f"{ours} − {theirs}: {_number(strict)} points{compat}, {_why_no_interval(strict)}"
    if strict.sign == 0:
        return f"{ours} shows no difference in robustness from {theirs}: {_number(strict)} points{compat}"
    return f"{ours} is {_size(strict)} points {'more' if strict.sign > 0 else 'less'} robust than {theirs}{compat}"


def _correction(gain: Gain) -> str:
    """Say that an interval shows a gain but the test, corrected over all arms and both attacks, does not."""
    forms = (("strict", gain.strict.difference, gain.p_strict), ("compat", gain.compat.difference, gain.p_compat))
    weak = [f"p = {p:.3g} under {form}" for form, x, p in forms if x and x.sign and p and p > ALPHA]
    return f", but not significant after Holm's correction ({', '.join(weak)})" if weak else ""


def _clean(clean: Interval | None) -> str:
    if clean is None:
        return ""
    if not clean.half_width:
        return f"; clean accuracy: {_number(clean)} points, {_why_no_interval(clean)}"
    if clean.lies_within(MARGIN):
        return f"; clean accuracy is equal within ±{MARGIN:g} ({_number(clean)})"
    if clean.sign:
        return f"; clean accuracy is {_size(clean)} points {'higher' if clean.sign > 0 else 'lower'}"
    return f"; clean accuracy is not shown to be equal within ±{MARGIN:g} or different ({_number(clean)})"


# ---------------------------------------------------------------------- at matched training loss
def _match(results: Results, pair: MatchedPair, gains: list[Gain]) -> str:
    ours, theirs = results.title(pair.arm), results.title(pair.reference)
    strict, name = pair.strict.difference, name_matched(pair.metric)
    if pair.residual is None or strict is None:
        return f"{ours} matches the {name} of {theirs}, but no seed has results of both yet."
    residual = f"residual {_number(pair.residual)}, {pair.verdict}; {_count(pair.residual, results)}"
    if pair.verdict.startswith("MISSED"):
        equal = "loss" if name == TRAINING_LOSS else name
        return f"{ours} misses the {name} of {theirs} ({residual}), so they are not compared at equal {equal}."
    values = "training losses" if name == TRAINING_LOSS else f"values of {name}"
    condition = f"At {values} that are not shown to be equal or different"
    if pair.verdict.startswith("PASS"):
        condition = f"At matched {name}"
    permuted = " (the same maps, permuted)" if pair.permuted else ""
    sentence = f"{condition} ({residual}), {_compare(ours + permuted, theirs, strict)}."
    by_arm = {gain.arm: gain.strict.difference for gain in gains}
    gain, unpermuted = by_arm.get(pair.arm), by_arm.get(pair.reference)
    if pair.permuted and gain and unpermuted:
        standard = results.title(results.standard or "")
        sentence += f" Its gain over {standard} is {_number(gain)} points, with unpermuted maps {_number(unpermuted)}."
    return sentence


# ---------------------------------------------------------------------- compat against strict
def _attack_forms(results: Results, gains: list[Gain]) -> list[str]:
    """Say if the gains differ between compat and strict, and which arms compat overestimates."""
    changes = {
        results.title(gain.arm): gain.strict_minus_compat
        for gain in gains
        if gain.strict_minus_compat and gain.strict_minus_compat.n > 1
    }
    if not changes:
        return []
    excess = {results.title(arm): compat_excess(results, arm) for arm in results.study.arms}
    over = [
        f"{title} by {_size(x)} points{_in_all_seeds(x)}"
        for title, x in excess.items()
        if x and x.mean > 0 and _differs(x)
    ]
    overestimates = f"; compat overestimates {', '.join(over)}" if over else ""
    shown = [
        f"{_size(change)} points {'larger' if change.mean > 0 else 'smaller'} for {title}{_in_all_seeds(change)}"
        for title, change in changes.items()
        if _differs(change)
    ]
    if shown:
        return [f"Compat and strict differ: under strict the gain is {', '.join(shown)}{overestimates}."]
    title, largest = max(changes.items(), key=lambda item: abs(item[1].mean))
    change = f"the largest change of a gain is {_number(largest)} points, of {title}"
    return [f"No difference between compat and strict is shown: {change}{overestimates}."]


# ---------------------------------------------------------------------- numbers in sentences
def _number(interval: Interval) -> str:
    """Return −0.1 ± 0.5, or a bare mean without an interval."""
    if interval.half_width:
        return Estimate(interval, 0, None).text
    return f"{interval.mean:.3g}".replace("-", "−")


def _size(interval: Interval) -> str:
    return _number(replace(interval, mean=abs(interval.mean)))


def _in_all_seeds(interval: Interval) -> str:
    return "" if interval.half_width else f" in all {interval.n} seeds"


def _differs(interval: Interval) -> bool:
    """Return True if an interval excludes 0, or if all of several seeds have the same value other than 0."""
    return interval.sign != 0 or (interval.half_width == 0 and interval.mean != 0)


def _why_no_interval(interval: Interval) -> str:
    return "with one seed only" if interval.n == 1 else f"the same in all {interval.n} seeds"


def _count(interval: Interval, results: Results) -> str:
    return f"n = {interval.n}" + (f" of {results.seed_count} seeds" if interval.n < results.seed_count else "")
