"""All pairs of arms compared seed by seed: one table and one family of tests per accuracy."""

from dataclasses import replace
from itertools import combinations

from analysis.results.results import Results
from analysis.statistics.pairs import Comparison, holm
from analysis.tables.accuracy import CLEAN, COMPAT, STRICT
from analysis.tables.cells import Cell, Probability, Table
from analysis.tables.notes import missing_notes
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_COMPAT, TEST_STRICT

#: With more arms, each is compared only with standard training, or with the study's first arm.
MOST_ARMS = 12


def comparison_tables(results: Results) -> tuple[Table, ...]:
    """Return one table of all pairs per metric: difference, p, p after Holm's correction, effect size and n."""
    metrics = {CLEAN: TEST_ACCURACY, COMPAT: TEST_COMPAT, STRICT: TEST_STRICT}
    return tuple(_table(results, heading, metric) for heading, metric in metrics.items())


def list_pairs(results: Results) -> list[tuple[str, str]]:
    """Return the compared arms as (arm, the arm that is subtracted), in the study's order."""
    arms = list(results.study.arms)
    if len(arms) <= MOST_ARMS:
        return [(later, earlier) for earlier, later in combinations(arms, 2)]
    first = results.standard or arms[0]
    return [(arm, first) for arm in arms if arm != first]


def _table(results: Results, heading: str, metric: str) -> Table:
    pairs = list_pairs(results)
    comparisons = [results.compare(*pair, metric, 100) for pair in pairs]
    corrected = holm([comparison.p for comparison in comparisons])
    rows: list[dict[str, Cell]] = []
    untested: dict[str, list[str]] = {}
    for pair, comparison, p_holm in zip(pairs, comparisons, corrected, strict=True):
        title = f"{results.title(pair[0])} − {results.title(pair[1])}"
        rows.append(
            {
                "Pair": title,
                "Difference, points": results.cell(comparison.difference, pair, metric),
                "p": Probability(comparison.p),
                "p (Holm)": Probability(p_holm),
                "g_z": replace(results.cell(comparison.effect, pair, metric), asked=0),
                "n": str(comparison.n),
            }
        )
        if comparison.p is None:
            untested.setdefault(_reason(comparison), []).append(title)
    tests = sum(p is not None for p in corrected)
    method = (
        "Difference: of the means, in points of accuracy, paired by seed: mean ± half-width of the 95% Student t"
        " interval over the n seeds that both arms have. p: two-sided paired t test. p (Holm): corrected over the"
        f" {tests} tests of this table. g_z: mean / standard deviation of the differences, with Hedges' correction of"
        " its bias, and the 95% interval of its true value from the noncentral t distribution. Intervals are not"
        " corrected for the number of comparisons."
    )
    reasons = [f"Not tested, {reason}: {'; '.join(titles)}".rstrip(".") + "." for reason, titles in untested.items()]
    notes = [method, *reasons, *missing_notes(results, [metric])]
    title = f"All pairs: {heading} on {results.study.data.name}"
    return Table.from_rows(title, rows, notes, "comparisons", long=True)


def _reason(comparison: Comparison) -> str:
    if comparison.difference is None:
        return "no common seed"
    return "one seed only" if comparison.n == 1 else "the same difference in every seed"
