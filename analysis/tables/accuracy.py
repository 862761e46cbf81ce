"""Tables 1, 2 and 3 of a study, the paper's numbers beside ours, and the notes that all tables share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from analysis import paper
from analysis.results import rows
from analysis.results.results import Results
from analysis.results.rows import AUTOATTACK
from analysis.tables.cells import Cell, Estimate, Table
from tune_interpreg.study.config import Arm


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
    told = (*notes(results, metrics.values()), attack_note(results), *teacher_note(results), *_paper_note(results))
    return Table(title, columns, cells, told)


def gradient_table(results: Results) -> Table:
    """Table 3: mean l2 norms of the logits' input gradients, of the label and of the other labels."""
    metrics = {"‖∇f_c‖ label": paper.GRAD_LABEL, "‖∇f_k‖ other": paper.GRAD_OTHER}
    columns, cells = _beside_paper(results, metrics, scale=1)
    images = listed(rows.collect_facts(results.current)["gradient_images"])
    note = (
        f"Gradients of logits by pixels in [0, 1] at {images} training images: per image ‖∇f_c(x)‖₂ and the mean"
        " of ‖∇f_k(x)‖₂ over k ≠ c, averaged over images, then over seeds."
    )
    if results.study.data.name in paper.GRADIENT_NORMS:
        note += " The paper's intervals are computed across images too."
    title = f"Table 3. Mean gradient norms on {results.study.data.name}"
    return Table(title, columns, cells, (*notes(results, metrics.values()), note, *_paper_note(results)))


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
        (results.title(name), *(cell for metric in metrics.values() for cell in cells(name, arm, metric)))
        for name, arm in arms.items()
    ]
    return ("Arm", *(heading for pair in columns for heading in pair)), tuple(body)


# -------------------------------------------------------------------------------- notes
def notes(results: Results, metrics: Iterable[str], arms: Collection[str] | None = None) -> tuple[str, ...]:
    """What is under a table of means of some metrics of some arms (None: of all): n, method, what is missing."""
    metrics, named = list(metrics), results.study.arms if arms is None else arms
    seeds = ", ".join(map(str, results.study.seeds))
    n = (
        f"Mean ± half-width of the 95% interval: Student t over n = {results.asked} seeds ({seeds}), unless a cell says"
        " otherwise."
    )
    return (n, *_wilson_note(results, metrics, named), *lacking(results, metrics, named))


def lacking(results: Results, metrics: Iterable[str], arms: Collection[str] | None = None) -> tuple[str, ...]:
    """What is missing under a table, of means or of differences: seeds, and records that no number rests on."""
    named = results.study.arms if arms is None else arms
    return (*gaps(results, list(metrics), named), *_left_out(results, named))


def _wilson_note(results: Results, metrics: list[str], arms: Collection[str]) -> list[str]:
    single = [(arm, metric) for arm in arms for metric in metrics if len(results.values(arm, metric)) == 1]
    images = {results.images(arm, metric) for arm, metric in single if "accuracy" in metric} - {0}
    said = "of one seed's model on {} images: 95% interval of Wilson; it does not tell what another seed would reach."
    return [f"[low, high] {said.format(listed(sorted(images)))}"] if images else []


def _left_out(results: Results, arms: Collection[str]) -> list[str]:
    others = {arm: f"{count} done repeats under another recipe" for arm, count in results.current.others.items()}
    both = (*others.items(), *rows.describe_foreign(results.current).items())
    stale = [f"{arm}: {said} are left out." for arm, said in both if arm in arms]
    return [*stale, *(f"{arm}: left out: {said}." for arm in arms for said in results.damaged.get(arm, ()))]


def gaps(results: Results, metrics: Collection[str], arms: Collection[str]) -> list[str]:
    """Which seeds a table of some metrics lacks, and why: one line per arm and reason."""
    why: dict[tuple[str, str], list[int]] = {}
    for gap in results.missing:
        said = "not in the ledger yet" if gap.state == "absent" else gap.state
        reason = said + (f": {gap.error}" if gap.error else "")
        why.setdefault((gap.arm, reason), []).append(gap.seed)
    told = {(gap.arm, gap.seed) for gap in results.missing}
    for arm in results.study.arms:
        held = {metric: results.values(arm, metric) for metric in metrics}
        for seed in [seed for seed in results.study.seeds if (arm, seed) not in told]:
            lost = [metric for metric in metrics if seed not in held[metric]]
            if lost:
                why.setdefault((arm, f"without a finite {', '.join(lost)}"), []).append(seed)
    lines = [(arm, seeds, reason) for (arm, reason), seeds in why.items() if arm in arms]
    return [
        f"{arm}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} {reason}." for arm, seeds, reason in lines
    ]


def teacher_note(results: Results) -> list[str]:
    """What the intervals of arms do not cover whose seeds all learn from one teacher."""
    taught: dict[str, list[str]] = {}
    for name, arm in results.study.arms.items():
        if arm.targets and arm.targets.teachers == "shared":
            taught.setdefault(arm.targets.teacher, []).append(results.title(name))
    of = [f"{', '.join(names)} from {results.title(teacher)}" for teacher, names in taught.items()]
    said = "the intervals do not cover that another seed of the teacher would teach otherwise."
    return [f"One teacher for all seeds: {'; '.join(of)}; {said}"] if of else []


def attack_note(results: Results) -> str:
    """The attack of the tables' accuracies."""
    ensemble = results.study.evaluation.autoattack
    images = listed(rows.collect_facts(results.current)["test_images"])
    return attack_said(results, f"{images} test images") + (f" AutoAttack: {ensemble} test images." if ensemble else "")


def attack_said(results: Results, images: str) -> str:
    """The attack of the evaluation on images, and what its two forms are."""
    attack, evaluation = results.study.evaluation_attack, results.study.evaluation
    restarts = f" from {evaluation.restarts} starts, of which the worst counts," if evaluation.restarts > 1 else ""
    direction = "" if attack.direction is None else f" along the {attack.direction} direction"
    return (
        f"Attack: PGD, {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps of"
        f" {attack.step:.3g}{direction},{restarts} on {images}. compat: gradient of the mean loss of a"
        f" batch of {evaluation.batch_size}, floor 1e-6, last iterate; strict:"
        " each image's own gradient whatever its size, an image is lost if any iterate is misclassified."
    )


def _paper_note(results: Results) -> list[str]:
    departures = paper.differences(results.study, rows.collect_facts(results.current))
    return ["Set-up where it is not the paper's: " + "; ".join(departures) + "."] if departures else []


def listed(values: Iterable[object]) -> str:
    """Counts that differ between records: 10000, or 1000 or 10000, or no."""
    """Counts that differ between records: 10000, or 1000 or 10000, or no."""
    return " or ".join(map(str, values)) or "no"
