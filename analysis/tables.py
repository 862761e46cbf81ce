"""Tables as numbers, computed from rows; the renderers at the end only draw them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd
import rich.table
from rich.text import Text

from analysis import paper, rows
from analysis.intervals import Interval, paired, student_t
from analysis.rows import Missing, Record
from tune_interpreg.config import Arm, Study

ABSENT = "–"
SYMBOLS = {"lambda": "λ", "phi": "φ", "lambda_j": "λ_J"}
LOSS = "train/loss"


@dataclass(frozen=True)
class Estimate:
    """A cell that is measured: its interval, in the column's unit, or None where no seed has a value.

    asked: seeds it should rest on. decimals: how many are printed; None rounds at the half-width's second digit.
    """

    interval: Interval | None
    asked: int
    decimals: int | None = 2

    def __str__(self) -> str:
        if self.interval is None:
            return ABSENT
        mean, half_width, n = self.interval.mean, self.interval.half_width, self.interval.n
        decimals = _decimals(half_width) if self.decimals is None else self.decimals
        number = f"{mean:z.{decimals}f}" + ("" if half_width is None else f" ± {half_width:.{decimals}f}")
        return number if n >= self.asked and half_width is not None else f"{number} (n={n})"


Cell = str | Estimate


@dataclass(frozen=True)
class Table:
    """A table before ink: one cell a column in each row; notes say n, method, settings and what is missing."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (self.title, row)


@dataclass(frozen=True)
class Results:
    """What every table is computed from: a study, its ledger, and the rows and gaps that follow from both."""

    study: Study
    records: tuple[Record, ...]
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
    chosen = {name: _chosen(results, name) for name in searched}
    names = _parameters(searched)
    printed = paper.SETTINGS.get(results.study.data.name)
    columns = ("Arm", "Search", "Trials", *(SYMBOLS.get(name, name) for name in names), *(["paper"] if printed else []))
    cells = tuple(
        (
            paper.title(name, arm),
            *_search_cells(results, name, arm),
            *(_value(chosen[name].get(parameter)) for parameter in names),
            *([_paper_setting(printed, name, arm)] if printed else []),
            *_matched(results, name, arm),
        )
        for name, arm in searched.items()
    )
    references = {arm.search.match_loss_of for arm in searched.values() if arm.search}
    named = [name for name in results.study.arms if name in searched or name in references]
    losses = ("Reference loss", "Own loss", "Residual")
    note = (
        "Losses: training loss, mean over the last epoch, penalty included, over the repeats' seeds. Residual: the"
        " arm's loss − its reference's, paired by seed. Settings are those of the repeats."
    )
    notes = (*_notes(results, [LOSS], named), note)
    return Table("Settings. Chosen parameters and matched training losses", columns + losses, cells, notes)


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


def _chosen(results: Results, name: str) -> Mapping[str, object]:
    repeats = rows.repeats(results.records, results.study)[name]
    return repeats[-1]["recipe"]["params"] if repeats else {}


def _parameters(arms: Mapping[str, Arm]) -> list[str]:
    named = dict.fromkeys(p for arm in arms.values() if arm.search for p in (*arm.search.space, *arm.params))
    return [p for p in SYMBOLS if p in named] + [p for p in named if p not in SYMBOLS]


def _search_cells(results: Results, name: str, arm: Arm) -> tuple[str, str]:
    assert arm.search
    goal = f"match {arm.search.match_loss_of}" if arm.search.match_loss_of else f"max {arm.search.maximize}"
    ended = [r for r in results.records if (r["arm"], r["role"]) == (name, "search") and r["state"] != "failed"]
    return goal, f"{len(ended)} of {arm.search.trials}"


def _paper_setting(printed: Mapping[str, Mapping[str, float]], name: str, arm: Arm) -> str:
    known = printed.get(name, {}) if paper.corresponds(name, arm) else {}
    return ", ".join(f"{SYMBOLS[parameter]} {value:g}" for parameter, value in known.items()) or ABSENT


def _matched(results: Results, name: str, arm: Arm) -> tuple[Cell, Cell, Cell]:
    assert arm.search
    own = results.estimate(name, LOSS, decimals=None)
    reference = arm.search.match_loss_of
    if reference is None:
        return ABSENT, own, ABSENT
    ours, theirs = rows.values(results.frame, name, LOSS), rows.values(results.frame, reference, LOSS)
    residual = paired(ours, theirs) if ours.keys() & theirs.keys() else None
    asked = len(results.study.seeds)
    return results.estimate(reference, LOSS, decimals=None), own, Estimate(residual, asked, decimals=None)


def _value(value: object) -> str:
    if value is None:
        return ABSENT
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _decimals(half_width: float | None) -> int:
    """Decimals that show a half-width's first two digits: 0.0123 → 3; four where there is none."""
    if not half_width:
        return 4
    return max(0, 1 - math.floor(math.log10(half_width)))


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


def _attack_note(results: Results) -> str:
    attack = results.study.evaluation_attack
    images = _listed(rows.facts(results.records, results.study)["test_images"])
    size = results.study.evaluation.batch_size
    return (
        f"Attack: PGD, {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps of {attack.step:.3g}, on {images} test"
        f" images. compat: gradient of the mean loss of a batch of {size}, floor 1e-6, last iterate; strict:"
        " each image's own gradient whatever its size, an image is lost if any iterate is misclassified."
    )


def _paper_note(results: Results) -> list[str]:
    departures = paper.differences(results.study, rows.facts(results.records, results.study))
    return ["Set-up where it is not the paper's: " + "; ".join(departures) + "."] if departures else []


def _listed(values: Iterable[object]) -> str:
    return " or ".join(map(str, values)) or "no"


# ---------------------------------------------------------------------------- renderers
def to_markdown(table: Table) -> str:
    """A table as GitHub Markdown: heading, pipe table, notes."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    body = ["| " + " | ".join(escape(str(cell)) for cell in line) + " |" for line in lines]
    notes = [f"- {escape(note)}" for note in table.notes]
    return "\n".join([f"## {table.title}", "", *body, "", *notes]) + "\n"


def to_csv(table: Table) -> list[dict[str, object]]:
    """One record a cell: table, row, column, text and, where measured, mean, half_width and n, unrounded."""
    return [
        {"table": table.title, "row": str(row[0]), "column": column, "text": str(cell)} | _numbers(cell)
        for row in table.rows
        for column, cell in zip(table.columns[1:], row[1:], strict=True)
    ]


def to_rich(table: Table) -> rich.table.Table:
    """A table for the terminal, its notes beneath."""
    caption = Text("\n".join(table.notes))
    drawn = rich.table.Table(title=Text(table.title), caption=caption, title_justify="left", caption_justify="left")
    for column in table.columns:
        drawn.add_column(Text(column), justify="left" if column == "Arm" else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    return drawn


def _numbers(cell: Cell) -> dict[str, object]:
    interval = cell.interval if isinstance(cell, Estimate) else None
    return vars(interval) if interval else {"mean": None, "half_width": None, "n": None}


def escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
