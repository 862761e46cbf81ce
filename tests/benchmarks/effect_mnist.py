"""Measure the effect of the penalties on gradients and robustness, on a few thousand images of MNIST.

Runs the study effect_mnist.yaml as ``tune-interpreg run`` does (an interrupted run is resumed) and prints Markdown: a
verdict for each claim, all arms, and pairs of arms that differ in one option. Progress goes to standard error; the
dated page next to this file is made by

    python tests/benchmarks/effect_mnist.py --data-root DATA > tests/benchmarks/effect_mnist.md

Exit codes: 0 all claims hold, 1 one does not, 2 bad input or an unfinished study, 130 or 143 interrupted.
"""

import sys
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from effect_run import parse_options, run_study
from steps_report import describe_machine

from analysis.formats.render import to_markdown
from analysis.results.results import Results
from analysis.statistics.intervals import paired_differences
from analysis.tables.cells import Table
from tune_interpreg.study.metric_names import (
    GRAD_NORM_LABEL,
    GRAD_NORM_OTHER,
    TEST_ACCURACY,
    TEST_COMPAT,
    TEST_STRICT,
    VAL_ACCURACY,
    VAL_ADV_ACCURACY,
)

STUDY, STANDARD = Path(__file__).with_suffix(".yaml"), "standard"

#: Arms that differ only in strength, from 0 on.
LADDERS = {
    "λ (interpretation, batch norm)": (STANDARD, "interp_005", "interp_020", "interp_050", "interp_100"),
    "λ (interpretation, sample norm)": (STANDARD, "interp_100_sample", "interp_250_sample"),
    "λ_J (jacobian, batch norm)": (STANDARD, "jacobian_005", "jacobian_020", "jacobian_100"),
}

#: Pairs of arms that differ in one option. For B = 25 gradients of norm r the batch's norm is √B·r, the mean of the
#: samples' norms r. They are therefore compared at equal strengths, and at strengths that differ by 5.
PAIRS = {
    "interpretation, λ 0.1: norm batch − sample": ("interp_100", "interp_100_sample"),
    "interpretation, λ 0.02: norm batch − sample at 0.1": ("interp_020", "interp_100_sample"),
    "interpretation, λ 0.05: norm batch − sample at 0.25": ("interp_050", "interp_250_sample"),
    "interpretation, λ 0.05: sign abs − signed": ("interp_050", "signed_050"),
    "interpretation, λ 0.05: maps as they are − permuted": ("interp_050", "permuted_050"),
    "interpretation, λ 0.05: teacher adversarial − standard": ("interp_050", "nonrobust_050"),
    "jacobian, λ_J 0.1: norm batch − sample": ("jacobian_100", "jacobian_100_sample"),
    "jacobian, λ_J 0.02: norm batch − sample at 0.1": ("jacobian_020", "jacobian_100_sample"),
}

#: Clean accuracies that differ by less than this fraction count as equal.
EQUAL = 0.01

#: The columns of the tables: heading, factor and decimals.
COLUMNS = {
    TEST_ACCURACY: ("clean, %", 100, 2),
    TEST_COMPAT: ("compat, %", 100, 2),
    TEST_STRICT: ("strict, %", 100, 2),
    GRAD_NORM_LABEL: ("‖∇f_c‖", 1, 3),
    GRAD_NORM_OTHER: ("‖∇f_k‖, k ≠ c", 1, 3),
}

Verdicts = Iterator[tuple[bool, str]]


# --------------------------------------------------------------------- numbers
def mean(results: Results, arm: str, metric: str) -> float:
    return fmean(results.values(arm, metric).values())


def differences(results: Results, arm: str, other: str, metric: str) -> Collection[float]:
    """Return an arm's metric − the other arm's, paired by seed."""
    return paired_differences(results.values(arm, metric), results.values(other, metric)).values()


def format_spread(values: Collection[float], metric: str, sign: str = "") -> str:
    """Return ``mean [least, greatest]`` over the seeds, in the metric's unit."""
    _, factor, decimals = COLUMNS[metric]
    middle, low, high = (f"{factor * value:{sign}z.{decimals}f}" for value in (fmean(values), min(values), max(values)))
    return f"{middle} [{low}, {high}]"


# ---------------------------------------------------------------------- tables
def tables(results: Results) -> Iterator[Table]:
    """Yield the table of the arms, and that of the pairs' differences."""
    headings, seeds = [heading for heading, *_ in COLUMNS.values()], results.study.seeds
    note = f"Mean [least, greatest] over n = {len(seeds)} seeds ({', '.join(map(str, seeds))})."
    body = []
    for arm in results.study.arms:
        body.append((arm, *(format_spread(results.values(arm, metric).values(), metric) for metric in COLUMNS)))
    yield Table("Arms", ("arm", *headings), tuple(body), (note,))
    body = []
    for title, arms in PAIRS.items():
        body.append((title, *(format_spread(differences(results, *arms, metric), metric, "+") for metric in COLUMNS)))
    headings = [heading.replace("%", "points") for heading in headings]
    yield Table("Pairs", ("difference", *headings), tuple(body), (f"{note} Differences are paired by seed.",))


# -------------------------------------------------------------------- verdicts
def judge(results: Results) -> Verdicts:
    for ladder, arms in LADDERS.items():
        for metric in (GRAD_NORM_LABEL, GRAD_NORM_OTHER):
            means = [mean(results, arm, metric) for arm in arms]
            falls = all(later < earlier for earlier, later in pairwise(means))
            numbers = " → ".join(f"{value:.3f}" for value in means)
            yield falls, f"raising {ladder} lowers {COLUMNS[metric][0]} at each step: {numbers}"
    yield from judge_gains(results, LADDERS["λ (interpretation, batch norm)"])
    gaps = [mean(results, arm, TEST_COMPAT) - mean(results, arm, TEST_STRICT) for arm in results.study.arms]
    numbers = f"compat − strict is {100 * min(gaps):z.2f} to {100 * max(gaps):z.2f} points"
    yield min(gaps) >= 0, f"no arm is more accurate under strict than under compat: {numbers}"


def judge_gains(results: Results, ladder: tuple[str, ...]) -> Verdicts:
    """Judge the most robust arm among those as accurate as standard training, chosen on validation images."""
    reference = mean(results, STANDARD, VAL_ACCURACY)
    equal = [arm for arm in ladder if abs(mean(results, arm, VAL_ACCURACY) - reference) <= EQUAL]
    arm = max(equal, key=lambda arm: mean(results, arm, VAL_ADV_ACCURACY))
    clean = differences(results, arm, STANDARD, TEST_ACCURACY)
    claim = f"`{arm}`, chosen on validation images, comes within {EQUAL:.0%} of `{STANDARD}`, clean"
    yield abs(fmean(clean)) <= EQUAL, f"{claim}: {format_spread(clean, TEST_ACCURACY, '+')} points"
    for metric in (TEST_COMPAT, TEST_STRICT):
        gains = differences(results, arm, STANDARD, metric)
        claim = f"`{arm}` is more robust than `{STANDARD}` in each seed, {COLUMNS[metric][0].removesuffix(', %')}"
        yield min(gains) > 0, f"{claim}: {format_spread(gains, metric, '+')} points"


def main() -> int:
    """Run the open items of the study and print the page; return the exit code."""
    options = parse_options(STUDY, __doc__ or "")
    results = run_study(STUDY, options.store, options)
    verdicts = list(judge(results))
    minutes = sum(record["seconds"] for record in results.records) / 60
    setting = f"`{STUDY.name}`, {minutes:.0f} core-minutes; {describe_machine('torch', 'ray', 'optuna')}"
    claims = "\n".join(f"- **{'PASS' if holds else 'FAIL'}** {text}" for holds, text in verdicts)
    markdown = (to_markdown(table).rstrip() for table in tables(results))
    print("# Effect of the penalties on MNIST", claims, *markdown, f"## Setting\n\n{setting}", sep="\n\n")
    return 0 if all(holds for holds, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
