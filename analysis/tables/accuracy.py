"""Tables 1, 2 and 3 of a study, next to the paper's numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

from analysis import paper
from analysis.results import rows
from analysis.results.results import Results
from analysis.tables.cells import Cell, Estimate, Table
from analysis.tables.notes import attack_note, join_counts, mean_notes, override_notes, teacher_notes
from tune_interpreg.study.config import Study
from tune_interpreg.study.metric_names import (
    GRAD_NORM_LABEL,
    GRAD_NORM_OTHER,
    TEST_ACCURACY,
    TEST_AUTOATTACK,
    TEST_COMPAT,
    TEST_STRICT,
    suffixed,
)

CLEAN, COMPAT, STRICT = "Std. Acc.", "Adv. Acc. (compat)", "Adv. Acc. (strict)"


@dataclass(frozen=True)
class FurtherAttack:
    """An entry of evaluation.attacks: the heading of its column, its metric on test images, and its settings."""

    heading: str
    metric: str
    description: str


def list_attacks(study: Study) -> list[FurtherAttack]:
    """Return the further attacks of a study in its order; of PGD the strict form."""
    attacks = []
    for entry in study.evaluation.attacks:
        name, ball = study.entry_name(entry), study.ball_of(entry)
        if entry.autoattack:
            description = f"AutoAttack, {ball.norm}, ε = {ball.eps:g}, on {entry.autoattack} test images"
            attacks.append(FurtherAttack(name, suffixed(TEST_AUTOATTACK, name), description))
        else:
            starts = entry.restarts or study.evaluation.restarts
            worst = f", the worst of {starts} starts" if starts > 1 else ""
            description = f"strict PGD, {ball.norm}, ε = {ball.eps:g}, {ball.steps} steps{worst}"
            attacks.append(FurtherAttack(name, suffixed(TEST_STRICT, name), description))
    return attacks


def accuracy_table(results: Results) -> Table:
    """Return Table 1 (CIFAR-10: Table 2): accuracy in percent on clean and attacked test images.

    The attack comes in two forms, compat and strict (see ``attack_note``). The paper's numbers are next to compat.
    """
    number = 2 if results.study.data.name == "cifar10" else 1
    metrics = {CLEAN: TEST_ACCURACY, COMPAT: TEST_COMPAT, STRICT: TEST_STRICT}
    images = f"{join_counts(rows.collect_facts(results.current)['test_images'])} test images"
    attack = attack_note(results, images)
    attacks = list_attacks(results.study)
    metrics |= {further.heading: further.metric for further in attacks}
    further_notes = [f"{further.heading}: {further.description}." for further in attacks]
    notes = [*mean_notes(results, metrics.values()), attack, *further_notes]
    notes += [*teacher_notes(results), *override_notes(results), *_setup_note(results)]
    title = f"Table {number}. Accuracy on {results.study.data.name}, %"
    return Table.from_rows(title, _rows(results, metrics, scale=100), notes, "results")


def gradient_table(results: Results) -> Table:
    """Return Table 3: mean l2 norms of the logits' input gradients, of the label and of the other labels."""
    metrics = {"‖∇f_c‖ label": GRAD_NORM_LABEL, "‖∇f_k‖ other": GRAD_NORM_OTHER}
    images = join_counts(rows.collect_facts(results.current)["gradient_images"])
    note = (
        f"Gradients of logits by pixels in [0, 1] on {images} training images: per image ‖∇f_c(x)‖₂ and the mean"
        " of ‖∇f_k(x)‖₂ over k ≠ c, averaged over images, then over seeds."
    )
    if results.study.data.name in paper.GRADIENT_NORMS:
        note += " The paper's intervals also include the variation between images."
    notes = [*mean_notes(results, metrics.values()), note, *_setup_note(results)]
    title = f"Table 3. Mean gradient norms on {results.study.data.name}"
    return Table.from_rows(title, _rows(results, metrics, scale=1), notes, "gradients")


def _rows(results: Results, metrics: Mapping[str, str], scale: float) -> list[dict[str, Cell]]:
    """Return one row per arm; a metric that the paper has gets a second column with the paper's number."""
    arms, dataset = results.study.arms, results.study.data.name
    in_paper = {m for m in metrics.values() if any(paper.published(dataset, name, m) for name in arms)}
    rows_of_arms = []
    for name, arm in arms.items():
        row: dict[str, Cell] = {"Arm": results.title(name)}
        for heading, metric in metrics.items():
            row[heading] = results.estimate(name, metric, scale)
            if metric in in_paper:
                published = paper.published(dataset, name, metric) if paper.corresponds(name, arm) else None
                row[f"{heading}, paper"] = Estimate(published, paper.SEEDS)
        rows_of_arms.append(row)
    return rows_of_arms


def _setup_note(results: Results) -> list[str]:
    departures = paper.differences(results.study, rows.collect_facts(results.current))
    return [f"Differences from the paper's set-up: {'; '.join(departures)}."] if departures else []
