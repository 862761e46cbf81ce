"""All pairs of arms, compared seed by seed: one table for each accuracy, and one family of tests a table."""

from __future__ import annotations

from itertools import combinations

from analysis import paper
from analysis.results.results import Results
from analysis.statistics.pairs import Comparison, holm
from analysis.tables.accuracy import lacking
from analysis.tables.cells import Cell, Estimate, Probability, Source, Table

#: What is compared: heading → metric, each a fraction of the test images.
METRICS = {
    "Std. Acc.": paper.ACCURACY,
    "Adv. Acc. (compat)": paper.ADV_COMPAT,
    "Adv. Acc. (strict)": paper.ADV_STRICT,
}

#: Of more arms, only those pairs are compared of which one is standard training, else the study's first arm.
MOST_ARMS = 12

COLUMNS = ("Pair", "Difference, points", "p", "p (Holm)", "g_z", "n")


def comparison_tables(results: Results) -> tuple[Table, ...]:
    """For each of METRICS a table of all pairs: difference, p, p after Holm's correction, effect size and n."""
    return tuple(_table(results, heading, metric) for heading, metric in METRICS.items())


def pairs(results: Results) -> list[tuple[str, str]]:
    """The arms that are compared, as (arm, the other that is subtracted), in the study's order."""
    arms = list(results.study.arms)
    if len(arms) <= MOST_ARMS:
        return [(later, earlier) for earlier, later in combinations(arms, 2)]
    first = results.standard or arms[0]
    return [(arm, first) for arm in arms if arm != first]


def _table(results: Results, heading: str, metric: str) -> Table:
    compared = {pair: results.compare(*pair, metric) for pair in pairs(results)}
    corrected = holm([one.p for one in compared.values()])
    body = tuple(
        (f"{results.title(arm)} − {results.title(other)}", *_cells(one, p, results.asked, sources))
        for ((arm, other), one), p in zip(compared.items(), corrected, strict=True)
        for sources in [(Source(arm, metric, 100), Source(other, metric, 100))]
    )
    tests = sum(p is not None for p in corrected)
    told = (_method_note(tests), *_untested(results, compared), *lacking(results, [metric]))
    return Table(f"Comparisons. {heading} on {results.study.data.name}", COLUMNS, body, told, long=True)


def _cells(one: Comparison, p_holm: float | None, asked: int, sources: tuple[Source, ...]) -> tuple[Cell, ...]:
    difference = Estimate(one.difference and one.difference.scaled(100), asked, decimals=None, sources=sources)
    effect = Estimate(one.effect, 0, decimals=None, sources=sources)
    return difference, Probability(one.p), Probability(p_holm), effect, str(one.n)


def _method_note(tests: int) -> str:
    return (
        "Difference: of the means, in points of accuracy, paired by seed: mean ± half-width of the 95% Student t"
        " interval over the n seeds that both arms have. p: two-sided paired t test; p (Holm): corrected over the"
        f" {tests} tests of this table. g_z: mean over standard deviation of the differences, corrected for its bias"
        " (Hedges), and the 95% interval of its true value by the noncentral t distribution. Every interval is that of"
        " one comparison."
    )


def _untested(results: Results, compared: dict[tuple[str, str], Comparison]) -> list[str]:
    """Why pairs have no test, one line a reason."""
    why: dict[str, list[str]] = {}
    for (arm, other), one in compared.items():
        if one.p is None:
            why.setdefault(_reason(one), []).append(f"{results.title(arm)} − {results.title(other)}")
    return [f"Not tested, {reason}: {'; '.join(named)}." for reason, named in why.items()]


def _reason(one: Comparison) -> str:
    if one.difference is None:
        return "without a seed that both have"
    return "with one seed only" if one.n == 1 else "with the same difference in every seed"
