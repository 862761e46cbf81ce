"""The paper's question in numbers: gains over standard training, and differences at matched training loss.

Points are percentage points of accuracy on test images. Every difference is paired by seed.
"""

from dataclasses import dataclass

from analysis.results.results import Results
from analysis.statistics.intervals import Interval, paired_differences, student_t
from analysis.statistics.pairs import Comparison, holm
from analysis.tables.accuracy import CLEAN, COMPAT, STRICT, list_attacks
from analysis.tables.cells import ABSENT, Cell, Probability, Table
from analysis.tables.notes import missing_notes, teacher_notes
from analysis.tables.settings import TRAINING_LOSS, judge_match, name_matched
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_COMPAT, TEST_STRICT

#: Two clean accuracies count as equal if the 95% interval of their difference is within this many points.
MARGIN = 1.0


@dataclass(frozen=True)
class Gain:
    """One arm minus standard training, in points.

    compat, strict: of adversarial accuracy. p_compat, p_strict: after Holm's correction over both attacks and all arms.
    """

    arm: str
    compat: Comparison
    strict: Comparison
    clean: Comparison
    p_compat: float | None
    p_strict: float | None
    strict_minus_compat: Interval | None


@dataclass(frozen=True)
class MatchedPair:
    """One arm minus the arm with the metric that it matches.

    permuted: the arm's targets are the reference's, permuted. residual: of the metric. compat, strict: points.
    """

    arm: str
    reference: str
    metric: str
    permuted: bool
    residual: Interval | None
    verdict: str
    compat: Comparison
    strict: Comparison


def compute_gains(results: Results) -> list[Gain]:
    """Return every other arm minus standard training; nothing if the study has no such arm."""
    standard = results.standard
    if standard is None:
        return []
    arms = [arm for arm in results.study.arms if arm != standard]
    compat, strict, clean = (
        [results.compare(arm, standard, metric, 100) for arm in arms]
        for metric in (TEST_COMPAT, TEST_STRICT, TEST_ACCURACY)
    )
    corrected = holm([comparison.p for comparison in (*compat, *strict)])
    p_compat, p_strict = corrected[: len(arms)], corrected[len(arms) :]
    # Strict − compat of the gain is standard training's compat excess − the arm's.
    excess = [_excess_by_seed(results, arm) for arm in arms]
    change = [Comparison.from_seeds(_excess_by_seed(results, standard), ours, 100).difference for ours in excess]
    return [Gain(*fields) for fields in zip(arms, compat, strict, clean, p_compat, p_strict, change, strict=True)]


def compute_matches(results: Results) -> list[MatchedPair]:
    """Return every arm that matches another arm's training loss or other metric, minus that arm."""
    pairs = []
    for name, arm in results.study.arms.items():
        if arm.search is None or arm.search.matching is None:
            continue
        reference, metric = arm.search.matching.arm, arm.search.matched_metric
        compat, strict = (results.compare(name, reference, metric, 100) for metric in (TEST_COMPAT, TEST_STRICT))
        residual = results.compare(name, reference, metric).difference
        permuted, verdict = _permutes(results, name, reference), judge_match(results, name)
        pairs.append(MatchedPair(name, reference, metric, permuted, residual, verdict, compat, strict))
    return pairs


def compat_excess(results: Results, arm: str) -> Interval | None:
    """Return an arm's adversarial accuracy under compat − under strict, points; None if no seed has both."""
    by_seed = _excess_by_seed(results, arm)
    return student_t(by_seed.values()).scaled(100) if by_seed else None


def gain_table(results: Results) -> Table:
    """Return the gains over standard training under both attacks, and the cost in clean accuracy."""
    forms = (TEST_COMPAT, TEST_STRICT)
    rows: list[dict[str, Cell]] = []
    gains = compute_gains(results)
    for gain in gains:
        pair = (gain.arm, results.standard or "")
        rows.append(
            {
                "Arm": results.title(gain.arm),
                "Gain (compat)": results.cell(gain.compat.difference, pair, TEST_COMPAT),
                "p, compat": Probability(gain.p_compat),
                "Gain (strict)": results.cell(gain.strict.difference, pair, TEST_STRICT),
                "p, strict": Probability(gain.p_strict),
                "Strict − compat": results.cell(gain.strict_minus_compat, pair, *forms),
                CLEAN: results.cell(gain.clean.difference, pair, TEST_ACCURACY),
                f"Within ±{MARGIN:g}": _equal(gain.clean.difference),
                "Compat − strict, own": results.cell(compat_excess(results, gain.arm), (gain.arm,), *forms),
            }
        )
    tests = sum((gain.p_compat is not None) + (gain.p_strict is not None) for gain in gains)
    notes = [
        "Gain: the arm's adversarial accuracy − standard training's, in points, paired by seed: mean ± half-width of"
        " the 95% Student t interval over the seeds that both have. p: two-sided paired t test, corrected by Holm over"
        f" the {tests} tests of this table. Strict − compat: the gain under strict − the gain under compat.",
        f"{CLEAN}: clean accuracy − standard training's, in points. Within ±{MARGIN:g}: yes if the whole 95% interval"
        " is within it, so that the two count as equal. Compat − strict, own: the arm's adversarial accuracy under"
        " compat − under strict, in points.",
        *teacher_notes(results),
        *missing_notes(results, (TEST_ACCURACY, *forms)),
    ]
    title = f"Gains over {results.title(results.standard)}, points" if results.standard else "Gains"
    return Table.from_rows(title, rows, notes, "answer")


def attack_table(results: Results) -> Table:
    """Return the gains over standard training under every attack of the evaluation; no rows without further attacks."""
    attacks = {"own": TEST_STRICT} | {further.heading: further.metric for further in list_attacks(results.study)}
    standard = results.standard
    arms = [arm for arm in results.study.arms if arm != standard] if standard and len(attacks) > 1 else []
    rows: list[dict[str, Cell]] = []
    for arm in arms:
        row: dict[str, Cell] = {"Arm": results.title(arm)}
        for heading, metric in attacks.items():
            gain = results.compare(arm, standard or "", metric, 100).difference
            row[heading] = results.cell(gain, (arm, standard or ""), metric)
        rows.append(row)
    attack = results.study.evaluation_attack
    settings = f"strict PGD, {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps"
    note = (
        "The arm's adversarial accuracy − standard training's, in points, paired by seed: mean ± half-width of the 95%"
        f" Student t interval. own: {settings}. The other attacks are those of Table 1. Not corrected for the number of"
        " comparisons."
    )
    return Table.from_rows("Gains under every attack, points", rows, [note], "answer")


def match_table(results: Results) -> Table:
    """Return the arms that match another arm's training loss, minus that arm."""
    pairs = compute_matches(results)
    rows: list[dict[str, Cell]] = []
    for pair in pairs:
        arms = (pair.arm, pair.reference)
        rows.append(
            {
                "Arm": results.title(pair.arm),
                "Reference": results.title(pair.reference),
                "Residual": results.cell(pair.residual, arms, pair.metric, scale=1),
                "Match": pair.verdict,
                COMPAT: results.cell(pair.compat.difference, arms, TEST_COMPAT),
                STRICT: results.cell(pair.strict.difference, arms, TEST_STRICT),
                "p, strict": Probability(pair.strict.p),
            }
        )
    names = " or ".join(dict.fromkeys(name_matched(pair.metric) for pair in pairs)) or TRAINING_LOSS
    note = (
        "Arm − reference, paired by seed: mean ± half-width of the 95% Student t interval. Residual: difference of the"
        f" {names}. Match: as in the settings table. Adv. Acc.: difference in points; at equal {names} if"
        " Match is PASS, at different values if MISSED, undecided if NOT SHOWN. p: two-sided paired t test, not"
        " corrected."
    )
    named = {arm for pair in pairs for arm in (pair.arm, pair.reference)}
    metrics = dict.fromkeys([*(pair.metric for pair in pairs), TEST_COMPAT, TEST_STRICT])
    notes = [note, *missing_notes(results, metrics, named)]
    return Table.from_rows(f"Differences at matched {names}", rows, notes, "answer")


def _equal(clean: Interval | None) -> Cell:
    if clean is None or clean.half_width is None:
        return ABSENT
    return "yes" if clean.lies_within(MARGIN) else "not shown"


def _excess_by_seed(results: Results, arm: str) -> dict[int, float]:
    return paired_differences(results.values(arm, TEST_COMPAT), results.values(arm, TEST_STRICT))


def _permutes(results: Results, name: str, reference: str) -> bool:
    """Return True if an arm's targets are those of its reference, permuted."""
    arm, other = results.study.arms[name], results.study.arms[reference]
    ours, theirs = arm.targets, other.targets
    if not ours or not theirs or ours.permute is None or theirs.permute is not None:
        return False
    return arm.teacher == other.teacher and ours.map_settings == theirs.map_settings
