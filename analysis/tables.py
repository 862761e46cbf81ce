"""The tables of a study, as numbers computed from rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis import paper, rows
from analysis.cells import ABSENT, Cell, Estimate, Table
from analysis.intervals import paired, student_t
from analysis.rows import Missing, Record
from tune_interpreg.config import Arm, Study

SYMBOLS = {"lambda": "λ", "phi": "φ", "lambda_j": "λ_J", "lambda_g": "λ_g", "lambda_cs": "λ_cs", "lambda_gm": "λ_gm"}
LOSS = "train/loss"
AUTOATTACK = "test/adv_accuracy_autoattack"


@dataclass(frozen=True)
class Results:
    """What every table is computed from: a study, its ledger, and the rows and gaps that follow from both.

    choices: by arm, what its search chose (the fields of the store's choice file), where it has ended.
    """

    study: Study
    records: tuple[Record, ...]
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    frame: pd.DataFrame = field(init=False)
    missing: tuple[Missing, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", rows.rows(self.records, self.study))
        object.__setattr__(self, "missing", tuple(rows.missing(self.records, self.study)))

    def estimate(self, arm: str, metric: str, scale: float = 1.0, decimals: int | None = 2) -> Estimate:
        """Mean of a metric over the arm's seeds, times scale."""
        found = rows.values(self.frame, arm, metric).values()
        return Estimate(student_t(found).scaled(scale) if found else None, len(self.study.seeds), decimals)


def accuracy_table(results: Results) -> Table:
    """Table 1 (CIFAR-10: Table 2): accuracy in percent on clean and attacked test images, the paper's beside ours.

    The attack comes in two forms: compat, to stand beside the paper, and strict.
    """
    number = 2 if results.study.data.name == "cifar10" else 1
    metrics = {
        "Std. Acc.": paper.ACCURACY,
        "Adv. Acc. (compat)": paper.ADV_COMPAT,
        "Adv. Acc. (strict)": paper.ADV_STRICT,
    }
    if results.study.evaluation.autoattack:
        metrics["Adv. Acc. (AutoAttack)"] = AUTOATTACK
    columns, cells = _beside_paper(results, metrics, scale=100)
    title = f"Table {number}. Accuracy on {results.study.data.name}, %"
    return Table(
        title, columns, cells, (*_notes(results, metrics.values()), _attack_note(results), *_paper_note(results))
    )


def gradient_table(results: Results) -> Table:
    """Table 3: mean l2 norms of the logits' input gradients, of the label and of the other labels."""
    metrics = {"‖∇f_c‖ label": paper.GRAD_LABEL, "‖∇f_k‖ other": paper.GRAD_OTHER}
    columns, cells = _beside_paper(results, metrics, scale=1)
    images = _listed(rows.facts(results.records, results.study)["gradient_images"])
    note = (
        f"Gradients of logits by pixels in [0, 1] at {images} training images: per image ‖∇f_c(x)‖₂ and the mean"
        " of ‖∇f_k(x)‖₂ over k ≠ c, averaged over images, then over seeds."
    )
    if results.study.data.name in paper.GRADIENT_NORMS:
        note += " The paper's intervals are computed across images too."
    title = f"Table 3. Mean gradient norms on {results.study.data.name}"
    return Table(title, columns, cells, (*_notes(results, metrics.values()), note, *_paper_note(results)))


def settings_table(results: Results) -> Table:
    """What each searched arm's search chose, and how well a matched training loss was met.

    Residual: this arm's training loss − the reference arm's, paired by seed.
    """
    searched = {name: arm for name, arm in results.study.arms.items() if arm.search}
    printed = paper.SETTINGS.get(results.study.data.name)
    columns = ("Arm", "Search", "Trials", "Chosen", *(["paper"] if printed else []), "Loss", "Residual")
    cells = tuple(
        (
            paper.title(name, arm),
            *_search_cells(results, name, arm),
            _chosen(results, name, arm),
            *([_paper_setting(printed, name, arm)] if printed else []),
            *_matched(results, name, arm),
        )
        for name, arm in searched.items()
    )
    references = {arm.search.match_loss_of for arm in searched.values() if arm.search}
    named = [name for name in results.study.arms if name in searched or name in references]
    note = (
        "Loss: training loss, mean over the last epoch, over the repeats' seeds; the penalty is included, except where"
        " the match says ce. Residual: the arm's loss − its reference's, paired by seed. Settings are those of the"
        " repeats."
    )
    notes = (*_notes(results, [LOSS], named), note, *_matches(results, searched))
    return Table("Settings. Chosen parameters and matched training losses", columns, cells, notes)


# ------------------------------------------------------------------- columns and cells
def _beside_paper(
    results: Results, metrics: Mapping[str, str], scale: float
) -> tuple[tuple[str, ...], tuple[tuple[Cell, ...], ...]]:
    arms, dataset = results.study.arms, results.study.data.name
    in_paper = [m for m in metrics.values() if any(paper.published(dataset, name, m) for name in arms)]
    columns = [
        (heading, f"{heading}, paper") if metric in in_paper else (heading,) for heading, metric in metrics.items()
    ]

    def cells(name: str, arm: Arm, metric: str) -> Iterable[Cell]:
        yield results.estimate(name, metric, scale)
        if metric in in_paper:
            known = paper.published(dataset, name, metric) if paper.corresponds(name, arm) else None
            yield Estimate(known, paper.SEEDS)

    body = [
        (paper.title(name, arm), *(cell for metric in metrics.values() for cell in cells(name, arm, metric)))
        for name, arm in arms.items()
    ]
    return ("Arm", *(heading for pair in columns for heading in pair)), tuple(body)


def _chosen(results: Results, name: str, arm: Arm) -> str:
    """The searched and the fixed parameters of the arm's repeats, or of those to come once its search has ended."""
    assert arm.search
    repeats = rows.repeats(results.records, results.study)[name]
    ended = results.choices.get(name, {}).get("params", {})
    params = repeats[-1]["recipe"]["params"] if repeats else {**arm.params, **ended} if ended else {}
    named = [parameter for parameter in (*arm.search.space, *arm.params) if parameter in params]
    ordered = [p for p in SYMBOLS if p in named] + [p for p in named if p not in SYMBOLS]
    return ", ".join(f"{SYMBOLS.get(p, p)} {_value(params[p])}" for p in ordered) or ABSENT


def _search_cells(results: Results, name: str, arm: Arm) -> tuple[str, str]:
    assert arm.search
    search = arm.search
    matched = f"match {search.match_loss_of}" + (" (ce)" if search.loss == "ce" else "")
    goal = matched if search.match_loss_of else f"max {search.maximize}"
    ended = [r for r in results.records if (r["arm"], r["role"]) == (name, "search") and r["state"] != "failed"]
    return goal, f"{len(ended)} of {arm.search.trials}"


def _paper_setting(printed: Mapping[str, Mapping[str, float]], name: str, arm: Arm) -> str:
    known = printed.get(name, {}) if paper.corresponds(name, arm) else {}
    return ", ".join(f"{SYMBOLS[parameter]} {value:g}" for parameter, value in known.items()) or ABSENT


def _matched(results: Results, name: str, arm: Arm) -> tuple[Cell, Cell]:
    assert arm.search
    metric, reference = arm.search.matched, arm.search.match_loss_of
    own = results.estimate(name, metric, decimals=None)
    if reference is None:
        return own, ABSENT
    ours, theirs = rows.values(results.frame, name, metric), rows.values(results.frame, reference, metric)
    residual = paired(ours, theirs) if ours.keys() & theirs.keys() else None
    asked = len(results.study.seeds)
    return own, Estimate(residual, asked, decimals=None)


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# -------------------------------------------------------------------------------- notes
def _notes(results: Results, metrics: Iterable[str], arms: Collection[str] | None = None) -> tuple[str, ...]:
    study = results.study
    seeds = ", ".join(map(str, study.seeds))
    n = f"Mean ± half-width of the 95% interval: Student t over n = {len(study.seeds)} seeds ({seeds})"
    others = rows.left_out(results.records, study).items()
    stale = [f"{arm}: {count} done repeats under another recipe are left out." for arm, count in others]
    named = study.arms if arms is None else arms
    return (f"{n}, unless a cell says otherwise.", *gaps(results, list(metrics), named), *stale)


def gaps(results: Results, metrics: list[str], arms: Collection[str]) -> list[str]:
    """Which seeds a table of some metrics lacks, and why: one line per arm and reason."""
    why: dict[tuple[str, str], list[int]] = {}
    for gap in results.missing:
        said = "not in the ledger yet" if gap.state == "absent" else gap.state
        reason = said + (f": {gap.error}" if gap.error else "")
        why.setdefault((gap.arm, reason), []).append(gap.seed)
    told = {(gap.arm, gap.seed) for gap in results.missing}
    for arm in results.study.arms:
        held = {metric: rows.values(results.frame, arm, metric) for metric in metrics}
        for seed in [seed for seed in results.study.seeds if (arm, seed) not in told]:
            lost = [metric for metric in metrics if seed not in held[metric]]
            if lost:
                why.setdefault((arm, f"without a finite {', '.join(lost)}"), []).append(seed)
    lines = [(arm, seeds, reason) for (arm, reason), seeds in why.items() if arm in arms]
    return [
        f"{arm}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} {reason}." for arm, seeds, reason in lines
    ]


def _matches(results: Results, searched: Iterable[str]) -> list[str]:
    """What is known of each matched strength: its 90% interval, or why nothing matches."""
    found = {name: results.choices[name] for name in searched if name in results.choices}
    lines = []
    for name, choice in found.items():
        if choice["target"] is None:
            continue
        ((parameter, value),) = choice["params"].items()
        strength = f"{SYMBOLS.get(parameter, parameter)} = {value:.3g}"
        interval = f"90% interval [{choice['low']:.3g}, {choice['high']:.3g}]"
        lines.append(
            f"{name}: {strength}, {interval}" + ("." if choice["feasible"] else f"; NO MATCH: {choice['reason']}.")
        )
    return lines


def _attack_note(results: Results) -> str:
    attack, evaluation = results.study.evaluation_attack, results.study.evaluation
    restarts = f" from {evaluation.restarts} starts, of which the worst counts," if evaluation.restarts > 1 else ""
    direction = "" if attack.direction is None else f" along the {attack.direction} direction"
    ensemble = f" AutoAttack: {evaluation.autoattack} test images." if evaluation.autoattack else ""
    images = _listed(rows.facts(results.records, results.study)["test_images"])
    return (
        f"Attack: PGD, {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps of"
        f" {attack.step:.3g}{direction},{restarts} on {images} test images. compat: gradient of the mean loss of a"
        f" batch of {evaluation.batch_size}, floor 1e-6, last iterate; strict:"
        " each image's own gradient whatever its size, an image is lost if any iterate is misclassified."
        f"{ensemble}"
    )


def _paper_note(results: Results) -> list[str]:
    departures = paper.differences(results.study, rows.facts(results.records, results.study))
    return ["Set-up where it is not the paper's: " + "; ".join(departures) + "."] if departures else []


def _listed(values: Iterable[object]) -> str:
    return " or ".join(map(str, values)) or "no"
