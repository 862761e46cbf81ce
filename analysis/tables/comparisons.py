"""All pairs of arms compared seed by seed: one table and one family of tests per accuracy."""

from __future__ import annotations

from itertools import combinations

from analysis.results.results import Results
from analysis.statistics.pairs import Comparison, holm
from analysis.tables.accuracy import CLEAN, COMPAT, STRICT
from analysis.tables.cells import Cell, Estimate, MetricSource, Probability, Table
from analysis.tables.notes import missing_notes
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_COMPAT, TEST_STRICT

METRICS = {CLEAN: TEST_ACCURACY, COMPAT: TEST_COMPAT, STRICT: TEST_STRICT}

#: With more arms, each is compared only with standard training, or with the study's first arm.
MOST_ARMS = 12

COLUMNS = ("Pair", "Difference, points", "p", "p (Holm)", "g_z", "n")


def comparison_tables(results: Results) -> tuple[Table, ...]:
    """Return one table of all pairs per metric: difference, p, p after Holm's correction, effect size and n."""
    return tuple(_table(results, heading, metric) for heading, metric in METRICS.items())


def list_pairs(results: Results) -> list[tuple[str, str]]:
    """Return the compared arms as (arm, the arm that is subtracted), in the study's order."""
    arms = list(results.study.arms)
    if len(arms) <= MOST_ARMS:
        return [(later, earlier) for earlier, later in combinations(arms, 2)]
    first = results.standard or arms[0]
    return [(arm, first) for arm in arms if arm != first]


def _table(results: Results, heading: str, metric: str) -> Table:
    comparisons = {pair: results.compare(*pair, metric) for pair in list_pairs(results)}
    corrected = holm([comparison.p for comparison in comparisons.values()])
    body = []
    for (pair, comparison), p_holm in zip(comparisons.items(), corrected, strict=True):
        sources = tuple(MetricSource(arm, metric, 100) for arm in pair)
        difference = comparison.difference and comparison.difference.scaled(100)
        row: tuple[Cell, ...] = (
            _title(results, pair),
            Estimate(difference, results.seed_count, decimals=None, sources=sources),
            Probability(comparison.p),
            Probability(p_holm),
            Estimate(comparison.effect, 0, decimals=None, sources=sources),
            str(comparison.n),
        )
        body.append(row)
    tests = sum(p is not None for p in corrected)
    method = (
        "Difference: of the means, in points of accuracy, paired by seed: mean ± half-width of the 95% Student t"
        " interval over the n seeds that both arms have. p: two-sided paired t test. p (Holm): corrected over the"
        f" {tests} tests of this table. g_z: mean / standard deviation of the differences, with Hedges' correction of"
        " its bias, and the 95% interval of its true value from the noncentral t distribution. Intervals are not"
        " corrected for the number of comparisons."
    )
    notes = (method, *_untested(results, comparisons), *missing_notes(results, [metric]))
    title = f"All pairs: {heading} on {results.study.data.name}"
    return Table(title, COLUMNS, tuple(body), notes, section="comparisons", long=True)


def _title(results: Results, pair: tuple[str, str]) -> str:
    return f"{results.title(pair[0])} − {results.title(pair[1])}"


def _untested(results: Results, comparisons: dict[tuple[str, str], Comparison]) -> list[str]:
    """Return the pairs without a test, one line per reason."""
    by_reason: dict[str, list[str]] = {}
    for pair, comparison in comparisons.items():
        if comparison.p is None:
            by_reason.setdefault(_reason(comparison), []).append(_title(results, pair))
    return [f"Not tested, {reason}: {'; '.join(pairs)}".rstrip(".") + "." for reason, pairs in by_reason.items()]


def _reason(comparison: Comparison) -> str:
    if comparison.difference is None:
        return "no common seed"
    return "one seed only" if comparison.n == 1 else "the same difference in every seed"
