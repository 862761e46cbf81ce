"""Measure the effect of the penalties on gradients and robustness, on a few thousand images of MNIST.

Runs the study effect_mnist.yaml as ``tune-interpreg run`` does (an interrupted run is resumed) and prints Markdown: a
verdict for each claim, all arms by strength, and pairs of arms that differ in one option. Progress goes to standard
error; the dated page next to this file is made by

    python tests/benchmarks/effect_mnist.py --data-root DATA > tests/benchmarks/effect_mnist.md

Exit codes: 0 all claims hold, 1 one does not, 2 bad input or an unfinished study, 130 or 143 interrupted.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from effect_run import describe_machine, parse_options, run_study

from analysis.formats.render import to_markdown
from analysis.results.results import Results
from analysis.results.rows import collect_facts
from analysis.tables.cells import ABSENT, Table
from analysis.tables.symbols import SYMBOLS
from tune_interpreg import registry
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.metric_names import (
    GRAD_NORM_LABEL,
    GRAD_NORM_OTHER,
    TEST_ACCURACY,
    TEST_COMPAT,
    TEST_STRICT,
    VAL_ACCURACY,
    VAL_ADV_ACCURACY,
)

STUDY = Path(__file__).with_suffix(".yaml")
STANDARD = "standard"

#: Method → the parameter that is its strength. At strength 0 each is standard training.
STRENGTHS = {"interpretation": "lambda", "jacobian": "lambda_j"}

#: Clean accuracies that differ by less than this fraction count as equal.
EQUAL = 0.01

#: The columns of the tables: heading, unit of a difference, factor and decimals.
COLUMNS = {
    TEST_ACCURACY: ("clean, %", "points", 100, 2),
    TEST_COMPAT: ("compat, %", "points", 100, 2),
    TEST_STRICT: ("strict, %", "points", 100, 2),
    GRAD_NORM_LABEL: ("‖∇f_c‖", "logits/pixel", 1, 3),
    GRAD_NORM_OTHER: ("‖∇f_k‖, k ≠ c", "logits/pixel", 1, 3),
}


@dataclass(frozen=True)
class Ladder:
    """Arms that differ only in strength, by rising strength, with standard training at strength 0."""

    method: str
    norm: str
    arms: Mapping[float, str]

    def __str__(self) -> str:
        return f"{SYMBOLS[STRENGTHS[self.method]]} ({self.method}, {self.norm} norm)"


@dataclass(frozen=True)
class Verdict:
    """A claim, whether the numbers support it, and the numbers."""

    claim: str
    holds: bool
    numbers: str

    def __str__(self) -> str:
        return f"- **{'PASS' if self.holds else 'FAIL'}** {self.claim}: {self.numbers}"


# ------------------------------------------------------------- arms to compare
def options_of(arm: Arm) -> dict[str, Any]:
    """Return all options of an arm in one level, with its method's defaults."""
    defaults = {name: parameter.default for name, parameter in registry.load_method(arm.method).parameters.items()}
    targets = arm.targets.model_dump() if arm.targets else {}
    return {"method": arm.method, **defaults, **arm.params, **{f"targets.{key}": targets[key] for key in targets}}


def find_ladders(study: Study) -> list[Ladder]:
    """Group the arms with a strength by all their other options. A single arm is no ladder."""
    groups: dict[tuple[tuple[str, Any], ...], dict[float, str]] = {}
    for name, arm in study.arms.items():
        if arm.method in STRENGTHS:
            options = options_of(arm)
            strength = options.pop(STRENGTHS[arm.method])
            groups.setdefault(tuple(options.items()), {0.0: STANDARD})[strength] = name
    ladders = [(dict(options), dict(sorted(arms.items()))) for options, arms in groups.items() if len(arms) > 2]
    return [Ladder(options["method"], options["norm"], arms) for options, arms in ladders]


def find_pairs(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield (description, arm, other arm) for arms of equal method and strength that differ in one option.

    The batch's norm is also paired with the samples' mean norm at √B times the strength, B the batch size: for B
    gradients of norm r the first is √B·r, the second r.
    """
    root = math.sqrt(study.training.batch_size)
    for arm, other in combinations([name for name, arm in study.arms.items() if arm.method in STRENGTHS], 2):
        ours, theirs = options_of(study.arms[arm]), options_of(study.arms[other])
        different = {key for key in ours if ours[key] != theirs.get(key)}
        strength = STRENGTHS[ours["method"]]
        place = f"{ours['method']}, {SYMBOLS[strength]} {ours[strength]:g}"
        if len(different) == 1 and strength not in different:
            (key,) = different
            yield f"{place}: {key} {ours[key] or 'none'} − {theirs[key] or 'none'}", arm, other
        elif different == {"norm", strength} and math.isclose(theirs[strength], root * ours[strength], rel_tol=0.1):
            yield f"{place}: norm {ours['norm']} − {theirs['norm']} at {theirs[strength]:g}", arm, other


# --------------------------------------------------------------------- numbers
def mean(results: Results, arm: str, metric: str) -> float:
    return fmean(results.values(arm, metric).values())


def differences(results: Results, arm: str, other: str, metric: str, other_metric: str = "") -> list[float]:
    """Return an arm's metric − the other arm's metric (or other metric), paired by seed."""
    ours, theirs = results.values(arm, metric), results.values(other, other_metric or metric)
    return [ours[seed] - theirs[seed] for seed in results.study.seeds]


def format_spread(values: Collection[float], metric: str, sign: str = "") -> str:
    """Return ``mean [least, greatest]`` over the seeds, in the metric's unit."""
    *_, factor, decimals = COLUMNS[metric]
    middle, *ends = (factor * value for value in (fmean(values), min(values), max(values)))
    return f"{middle:{sign}z.{decimals}f} [{', '.join(f'{end:{sign}z.{decimals}f}' for end in ends)}]"


# ---------------------------------------------------------------------- tables
def arms_table(results: Results) -> Table:
    """Return each arm's accuracies under both forms of the attack, and its gradient norms."""
    headings = ("arm", "strength", *(heading for heading, *_ in COLUMNS.values()), "compat − strict, points")
    body = []
    for name, arm in results.study.arms.items():
        parameter = STRENGTHS.get(arm.method)
        strength = f"{SYMBOLS[parameter]} {arm.params[parameter]:g}" if parameter else ABSENT
        cells = [format_spread(results.values(name, metric).values(), metric) for metric in COLUMNS]
        forms = format_spread(differences(results, name, name, TEST_COMPAT, TEST_STRICT), TEST_STRICT)
        body.append((name, strength, *cells, forms))
    return Table("Arms", headings, tuple(body), (_seed_note(results),))


def pairs_table(results: Results) -> Table:
    """Return the effect of single options: differences paired by seed."""
    headings = ("difference", *(f"{heading.removesuffix(', %')}, {unit}" for heading, unit, *_ in COLUMNS.values()))
    body = [
        (title, *(format_spread(differences(results, arm, other, metric), metric, "+") for metric in COLUMNS))
        for title, arm, other in find_pairs(results.study)
    ]
    batch = results.study.training.batch_size
    note = (
        f"The norm over a batch of {batch} is about √{batch} = {math.sqrt(batch):.3g} times the mean of its samples' "
        "norms. At equal strengths it penalizes more; at a strength that is smaller by this factor, about as much."
    )
    return Table("Pairs", headings, tuple(body), (_seed_note(results), note))


def _seed_note(results: Results) -> str:
    seeds = results.study.seeds
    return f"Mean [least, greatest] over n = {len(seeds)} seeds ({', '.join(map(str, seeds))})."


# -------------------------------------------------------------------- verdicts
def judge(results: Results) -> list[Verdict]:
    ladders = find_ladders(results.study)
    falls = [judge_fall(results, ladder, norm) for ladder in ladders for norm in (GRAD_NORM_LABEL, GRAD_NORM_OTHER)]
    robust = next(ladder for ladder in ladders if (ladder.method, ladder.norm) == ("interpretation", "batch"))
    return [*falls, *judge_gains(results, robust), judge_forms(results)]


def judge_fall(results: Results, ladder: Ladder, metric: str) -> Verdict:
    """The norm, a mean over the seeds, falls from each strength to the next."""
    means = [mean(results, arm, metric) for arm in ladder.arms.values()]
    by_seed = zip(*(results.values(arm, metric).values() for arm in ladder.arms.values()), strict=True)
    values, strengths = " → ".join(f"{value:.3f}" for value in means), ", ".join(f"{s:g}" for s in ladder.arms)
    numbers = f"{values} at {strengths}; so in {sum(map(_falls, by_seed))} of {results.seed_count} seeds"
    return Verdict(f"raising {ladder} lowers {COLUMNS[metric][0]} at each step", _falls(means), numbers)


def _falls(sequence: Sequence[float]) -> bool:
    return all(later < earlier for earlier, later in pairwise(sequence))


def judge_gains(results: Results, ladder: Ladder) -> Iterator[Verdict]:
    """The arm chosen on validation images is as accurate as standard training, and more robust in each seed."""
    arm = choose(results, ladder)
    if arm is None:
        claim = f"some arm of {ladder} comes within {100 * EQUAL:g} point of `{STANDARD}`, clean, on validation images"
        yield Verdict(claim, False, "none does")
        return
    clean = differences(results, arm, STANDARD, TEST_ACCURACY)
    claim = f"`{arm}`, chosen on validation images, comes within {100 * EQUAL:g} point of `{STANDARD}`, clean"
    yield Verdict(claim, abs(fmean(clean)) <= EQUAL, f"{format_spread(clean, TEST_ACCURACY, '+')} points")
    for form, metric in (("compat", TEST_COMPAT), ("strict", TEST_STRICT)):
        gains = differences(results, arm, STANDARD, metric)
        claim = f"`{arm}` is more robust than `{STANDARD}` in each seed, {form}"
        yield Verdict(claim, min(gains) > 0, f"{format_spread(gains, metric, '+')} points")


def choose(results: Results, ladder: Ladder) -> str | None:
    """Return the most robust arm among those as accurate as standard training, judged on validation images."""
    reference, arms = mean(results, STANDARD, VAL_ACCURACY), [arm for arm in ladder.arms.values() if arm != STANDARD]
    equal = [arm for arm in arms if abs(mean(results, arm, VAL_ACCURACY) - reference) <= EQUAL]
    return max(equal, key=lambda arm: mean(results, arm, VAL_ADV_ACCURACY), default=None)


def judge_forms(results: Results) -> Verdict:
    """No arm is more accurate under the strict attack than under compat, on the mean over its seeds."""
    gaps = {arm: mean(results, arm, TEST_COMPAT) - mean(results, arm, TEST_STRICT) for arm in results.study.arms}
    least, largest = min(gaps.values()), max(gaps, key=lambda arm: gaps[arm])
    numbers = f"compat − strict is at least {100 * least:z.2f} points, and at most {100 * gaps[largest]:z.2f}"
    return Verdict("no arm is more accurate under strict than under compat", least >= 0, f"{numbers} (`{largest}`)")


# -------------------------------------------------------------------- the page
def page(results: Results, verdicts: Sequence[Verdict]) -> str:
    tables = (to_markdown(table).rstrip() for table in (arms_table(results), pairs_table(results)))
    setting = "\n".join(f"- {line}" for line in describe_setting(results))
    claims = "\n".join(map(str, verdicts))
    return "\n\n".join(["# Effect of the penalties on MNIST", claims, *tables, f"## Setting\n\n{setting}"])


def describe_setting(results: Results) -> Iterator[str]:
    study, training, attack = results.study, results.study.training, results.study.evaluation_attack
    facts = collect_facts(results.current)
    train, test, gradient = (facts[f"{name}_images"][0] for name in ("train", "test", "gradient"))
    images = f"{train} images to train ({gradient} for gradient norms), {study.data.validation} to validate"
    yield f"{study.data.name}, {study.model.name}: {images}, {test} to test"
    yield f"training: {', '.join(f'{name} {value}' for name, value in training.model_dump(exclude_none=True).items())}"
    short = f"{study.attack.steps} of {study.attack.step_length:g}"
    starts = f"{study.evaluation.restarts} start; in adversarial training {short}"
    yield f"attack: {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps of {attack.step_length:g}, {starts}"
    yield ", ".join(f"{name} {number}" for name, number in results.records[0]["versions"].items())
    finished = max(record["finished"] for record in results.records)[:10]
    minutes = sum(record["seconds"] for record in results.records) / 60
    yield f"{finished}; {describe_machine()}; {minutes:.0f} core-minutes"


def main() -> int:
    """Run the open items of the study and print the page; return the exit code."""
    options = parse_options(STUDY, __doc__ or "")
    study = run_study(STUDY, options.store, options)
    results = Results.from_store(Store(options.store), study)
    if results.missing:
        return 2
    verdicts = judge(results)
    print(page(results, verdicts))
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
