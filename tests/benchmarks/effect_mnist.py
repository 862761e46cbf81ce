"""What the penalties do to gradients and to robustness, on a few thousand images of MNIST: claims and their numbers.

Runs the study beside it, effect_mnist.yaml, as ``tune-interpreg run`` would (stop it, run it again, and it goes on),
reads its ledger and prints Markdown: a verdict for each claim, all arms by strength, and options side by side.
Progress goes to standard error, so the dated result beside it is made by

    python tests/benchmarks/effect_mnist.py --data-root DATA > tests/benchmarks/effect_mnist.md

Exit codes: 0 all claims hold, 1 one does not, 2 bad input or an unfinished study, 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.formats.render import to_markdown
from analysis.paper import ACCURACY, ADV_COMPAT, ADV_STRICT, GRAD_LABEL, GRAD_OTHER
from analysis.results import rows
from analysis.tables.accuracy import Results
from analysis.tables.cells import ABSENT, Table
from analysis.tables.settings import SYMBOLS
from tune_interpreg import registry
from tune_interpreg.cluster.drain import ClusterError
from tune_interpreg.running import run as running
from tune_interpreg.store.store import Store, StoreError
from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.file import read as study_file
from tune_interpreg.study.file.yaml_lines import StudyError

STUDY = Path(__file__).with_suffix(".yaml")
STANDARD = "standard"

#: By method, the parameter that is its strength; at 0 each of them is standard training.
STRENGTHS = {"interpretation": "lambda", "jacobian": "lambda_j"}

#: How far clean accuracies may lie apart and count as equal, as a fraction.
EQUAL = 0.01

#: What the tables show: heading, unit of a difference, factor and decimals.
SHOWN = {
    ACCURACY: ("clean, %", "points", 100, 2),
    ADV_COMPAT: ("compat, %", "points", 100, 2),
    ADV_STRICT: ("strict, %", "points", 100, 2),
    GRAD_LABEL: ("‖∇f_c‖", "logits/pixel", 1, 3),
    GRAD_OTHER: ("‖∇f_k‖, k ≠ c", "logits/pixel", 1, 3),
}


@dataclass(frozen=True)
class Ladder:
    """Arms that differ in their strength alone, from standard training at strength 0; ``arms`` by rising strength."""

    method: str
    norm: str
    arms: Mapping[float, str]

    def __str__(self) -> str:
        return f"{SYMBOLS[STRENGTHS[self.method]]} ({self.method}, {self.norm} norm)"


@dataclass(frozen=True)
class Verdict:
    """A claim, whether the numbers bear it out, and the numbers."""

    claim: str
    holds: bool
    found: str

    def __str__(self) -> str:
        return f"- **{'PASS' if self.holds else 'FAIL'}** {self.claim}: {self.found}"


# ----------------------------------------------------------------- which arms are compared
def traits(arm: Arm) -> dict[str, Any]:
    """All that tells an arm from another, flat, with its method's defaults."""
    defaults = {name: parameter.default for name, parameter in registry.method(arm.method).parameters.items()}
    targets = arm.targets.model_dump() if arm.targets else {}
    return {"method": arm.method, **defaults, **arm.params, **{f"targets.{key}": targets[key] for key in targets}}


def ladders(study: Study) -> list[Ladder]:
    """The arms with a strength, grouped by all else that they are; one arm alone is no ladder."""
    groups: dict[tuple[tuple[str, Any], ...], dict[float, str]] = {}
    for name, arm in study.arms.items():
        if arm.method in STRENGTHS:
            own = traits(arm)
            strength = own.pop(STRENGTHS[arm.method])
            groups.setdefault(tuple(own.items()), {0.0: STANDARD})[strength] = name
    found = [(dict(own), dict(sorted(arms.items()))) for own, arms in groups.items() if len(arms) > 2]
    return [Ladder(own["method"], own["norm"], arms) for own, arms in found]


def beside(study: Study) -> Iterator[tuple[str, str, str]]:
    """(what is compared, one arm, the other): pairs of equal method and strength that differ in one option.

    The batch's norm also stands beside the samples' mean norm at √B times the strength, B the batch size: of B
    gradients of norm r, the first is √B·r, the second r.
    """
    root = math.sqrt(study.training.batch_size)
    for one, other in combinations([name for name, arm in study.arms.items() if arm.method in STRENGTHS], 2):
        ours, theirs = traits(study.arms[one]), traits(study.arms[other])
        apart = {key for key in ours if ours[key] != theirs.get(key)}
        strength = STRENGTHS[ours["method"]]
        told = f"{ours['method']}, {SYMBOLS[strength]} {ours[strength]:g}"
        if len(apart) == 1 and strength not in apart:
            (key,) = apart
            yield f"{told}: {key} {ours[key] or 'none'} − {theirs[key] or 'none'}", one, other
        elif apart == {"norm", strength} and math.isclose(theirs[strength], root * ours[strength], rel_tol=0.1):
            yield f"{told}: norm {ours['norm']} − {theirs['norm']} at {theirs[strength]:g}", one, other


# ------------------------------------------------------------------------------- numbers
def mean(results: Results, arm: str, metric: str) -> float:
    """Mean of a metric over the arm's seeds."""
    found = rows.values(results.frame, arm, metric).values()
    return math.fsum(found) / len(found)


def difference(results: Results, one: str, other: str, metric: str, other_metric: str | None = None) -> list[float]:
    """One arm's metric − the other's, or its other metric, paired by seed."""
    ours = rows.values(results.frame, one, metric)
    theirs = rows.values(results.frame, other, other_metric or metric)
    return [ours[seed] - theirs[seed] for seed in results.study.seeds]


def spread(found: Collection[float], metric: str, sign: str = "") -> str:
    """``mean [least, greatest]`` over the seeds, in the metric's unit."""
    *_, factor, decimals = SHOWN[metric]
    middle, *ends = (factor * value for value in (math.fsum(found) / len(found), min(found), max(found)))
    return f"{middle:{sign}z.{decimals}f} [{', '.join(f'{end:{sign}z.{decimals}f}' for end in ends)}]"


# -------------------------------------------------------------------------------- tables
def arms_table(results: Results) -> Table:
    """Each arm's accuracies, under both forms of the attack, and its gradient norms."""
    headings = ("arm", "strength", *(heading for heading, *_ in SHOWN.values()), "compat − strict, points")
    body = [
        (
            f"`{name}`",
            _strength(arm),
            *(spread(rows.values(results.frame, name, metric).values(), metric) for metric in SHOWN),
            spread(difference(results, name, name, ADV_COMPAT, ADV_STRICT), ADV_STRICT),
        )
        for name, arm in results.study.arms.items()
    ]
    return Table("Arms", headings, tuple(body), (_n(results),))


def _strength(arm: Arm) -> str:
    parameter = STRENGTHS.get(arm.method)
    return f"{SYMBOLS[parameter]} {arm.params[parameter]:g}" if parameter else ABSENT


def beside_table(results: Results) -> Table:
    """Options side by side: differences paired by seed."""
    headings = ("difference", *(f"{heading.removesuffix(', %')}, {unit}" for heading, unit, *_ in SHOWN.values()))
    body = [
        (told, *(spread(difference(results, one, other, metric), metric, "+") for metric in SHOWN))
        for told, one, other in beside(results.study)
    ]
    batch = results.study.training.batch_size
    note = (
        f"The norm over a batch of {batch} is about √{batch} = {math.sqrt(batch):.3g} times the mean of its samples' "
        "norms: at equal strengths it penalizes more, at a strength so much smaller about as much."
    )
    return Table("Side by side", headings, tuple(body), (_n(results), note))


def _n(results: Results) -> str:
    seeds = results.study.seeds
    return f"Mean [least, greatest] over n = {len(seeds)} seeds ({', '.join(map(str, seeds))})."


# ------------------------------------------------------------------------------ verdicts
def verdicts(results: Results) -> list[Verdict]:
    """Every claim, judged."""
    found = ladders(results.study)
    falling = (falls(results, ladder, metric) for ladder in found for metric in (GRAD_LABEL, GRAD_OTHER))
    robust = next(ladder for ladder in found if (ladder.method, ladder.norm) == ("interpretation", "batch"))
    return [*falling, *gains(results, robust), never_above(results)]


def falls(results: Results, ladder: Ladder, metric: str) -> Verdict:
    """The norm, a mean over the seeds, falls from each strength to the next."""
    means = [mean(results, arm, metric) for arm in ladder.arms.values()]
    by_seed = zip(*(rows.values(results.frame, arm, metric).values() for arm in ladder.arms.values()), strict=True)
    steps = " → ".join(f"{value:.3f}" for value in means)
    at, seeds = ", ".join(f"{strength:g}" for strength in ladder.arms), sum(map(_falls, by_seed))
    found = f"{steps} at {at}; so in {seeds} of {len(results.study.seeds)} seeds"
    return Verdict(f"raising {ladder} lowers {SHOWN[metric][0]} at each step", _falls(means), found)


def _falls(sequence: Sequence[float]) -> bool:
    return all(later < earlier for earlier, later in pairwise(sequence))


def gains(results: Results, ladder: Ladder) -> Iterator[Verdict]:
    """The arm that validation images choose is as accurate as standard training, and more robust in each seed."""
    arm = chosen(results, ladder)
    if arm is None:
        claim = f"some arm of {ladder} comes within {100 * EQUAL:g} point of `{STANDARD}`, clean, on validation images"
        yield Verdict(claim, False, "none does")
        return
    clean = difference(results, arm, STANDARD, ACCURACY)
    claim = f"`{arm}`, chosen on validation images, comes within {100 * EQUAL:g} point of `{STANDARD}`, clean"
    yield Verdict(claim, abs(math.fsum(clean) / len(clean)) <= EQUAL, f"{spread(clean, ACCURACY, '+')} points")
    for form, metric in (("compat", ADV_COMPAT), ("strict", ADV_STRICT)):
        gain = difference(results, arm, STANDARD, metric)
        claim = f"`{arm}` is more robust than `{STANDARD}` in each seed, {form}"
        yield Verdict(claim, min(gain) > 0, f"{spread(gain, metric, '+')} points")


def chosen(results: Results, ladder: Ladder) -> str | None:
    """Of a ladder's arms as accurate as standard training the most robust one, both on validation images alone."""
    reference, arms = mean(results, STANDARD, "val/accuracy"), [arm for arm in ladder.arms.values() if arm != STANDARD]
    equal = [arm for arm in arms if abs(mean(results, arm, "val/accuracy") - reference) <= EQUAL]
    return max(equal, key=lambda arm: mean(results, arm, "val/adv_accuracy"), default=None)


def never_above(results: Results) -> Verdict:
    """The strict attack leaves no arm more accurate than the compat one does, on the mean over its seeds."""
    apart = {arm: mean(results, arm, ADV_COMPAT) - mean(results, arm, ADV_STRICT) for arm in results.study.arms}
    least, most = min(apart.values()), max(apart, key=lambda arm: apart[arm])
    found = f"compat − strict is {100 * least:z.2f} points or more, and most in `{most}`: {100 * apart[most]:z.2f}"
    return Verdict("no arm is more accurate under strict than under compat", least >= 0, found)


# ------------------------------------------------------------------------------ the page
def page(results: Results) -> str:
    """The result as Markdown: verdicts, tables, and what they rest on."""
    claims = "\n".join(map(str, verdicts(results)))
    tables = (to_markdown(table).rstrip() for table in (arms_table(results), beside_table(results)))
    told = "\n".join(f"- {line}" for line in setting(results))
    return "\n\n".join(["# What the penalties do, on MNIST", claims, *tables, f"## Setting\n\n{told}"])


def setting(results: Results) -> Iterator[str]:
    """What was run, with what, where and when."""
    study, training, attack = results.study, results.study.training, results.study.evaluation_attack
    train, test, gradient, _ = rows.collect_facts(results.records, study).values()
    images = f"{train[0]} images to train ({gradient[0]} for gradient norms), {study.data.validation} to validate"
    yield f"{study.data.name}, {study.model.name}: {images}, {test[0]} to test"
    yield f"training: {', '.join(f'{name} {value}' for name, value in training.model_dump(exclude_none=True).items())}"
    starts = f"{study.evaluation.restarts} start; in adversarial training {study.attack.steps} of {study.attack.step:g}"
    yield f"attack: {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps of {attack.step:g}, {starts}"
    yield ", ".join(f"{name} {number}" for name, number in results.records[0]["versions"].items())
    finished = max(record["finished"] for record in results.records)[:10]
    minutes = sum(record["seconds"] for record in results.records) / 60
    yield f"{finished}; {_processor()}, {os.cpu_count()} cores; {minutes:.0f} core-minutes"


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


# -------------------------------------------------------------------------- command line
def main() -> int:
    """Run what is left of the study and print the page; returns the exit code."""
    options = _options()
    store, console = Store(options.store), Console(stderr=True)
    try:
        file = study_file.read(str(STUDY), options.overrides, options.data_root)
        code = running.run(file, store, where=options.cluster, retry_failed=True, console=console)
    except (StudyError, StoreError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = Results(file.study, tuple(store.records()))
    if code or results.missing:
        return code if code > 128 else 2
    print(page(results))
    return 0 if all(verdict.holds for verdict in verdicts(results)) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    root = os.environ.get("TUNE_INTERPREG_DATA") or None
    folder = "folder that holds MNIST/raw; default $TUNE_INTERPREG_DATA; without either they are downloaded"
    parser.add_argument("--data-root", type=Path, default=root, help=folder)
    parser.add_argument("--store", type=Path, default=Path("runs", STUDY.stem), help="folder for all results")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in `run`")
    parser.add_argument("--cluster", default="local", help="local, in-process, auto or HOST:PORT, as in `run`")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
