"""Notes that several tables share: n, method, attack, teachers, and what is missing."""

from collections.abc import Collection, Iterable

from analysis.results.results import Results
from tune_interpreg.study.fields import format_param
from tune_interpreg.study.setting import list_overrides


def mean_notes(results: Results, metrics: Iterable[str], arms: Collection[str] | None = None) -> list[str]:
    """Return the notes of a table of means of some metrics: n, method and what is missing; arms: None for all."""
    metrics, arms = list(metrics), results.study.arms if arms is None else arms
    seeds = ", ".join(map(str, results.study.seeds))
    method = (
        f"Mean ± half-width of the 95% Student t interval over n = {results.seed_count} seeds ({seeds}), unless a cell"
        " states another n."
    )
    return [method, *_wilson_note(results, metrics, arms), *missing_notes(results, metrics, arms)]


def missing_notes(results: Results, metrics: Iterable[str], arms: Collection[str] | None = None) -> list[str]:
    """Return what is missing in a table: seeds without a result, and records that are left out; arms: None for all."""
    arms = results.study.arms if arms is None else arms
    notes = _missing_seeds(results, list(metrics), arms)
    outdated = {arm: f"{count} done repeats under another recipe" for arm, count in results.outdated.items()}
    notes += [f"{arm}: {count} are left out." for arm, count in outdated.items() if arm in arms]
    return notes + [f"{arm}: left out: {line}." for arm in arms for line in results.damaged.get(arm, ())]


def attack_note(results: Results, images: str) -> str:
    """Return the evaluation's attack on ``images``, and the difference between compat and strict."""
    attack, evaluation = results.study.evaluation_attack, results.study.evaluation
    direction = "" if attack.direction is None else f" along the {attack.direction} direction"
    restarts = f", the worst of {evaluation.restarts} starts" if evaluation.restarts > 1 else ""
    return (
        f"Attack: PGD, {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps{restarts}, on {images}. compat: steps of"
        f" {attack.step_length:.3g}{direction}, gradient of the mean loss of a batch of {evaluation.batch_size}, norms"
        " below 1e-6 not scaled up, the last iterate counts. strict: steps that shrink from ε, directions free of the"
        " logits' scale, then towards the strongest rivals; an image is lost if any iterate is misclassified."
    )


def teacher_notes(results: Results) -> list[str]:
    """Return a note on the arms that share one teacher across seeds: their intervals do not cover its variation."""
    students: dict[str, list[str]] = {}
    for name, arm in results.study.arms.items():
        if arm.teacher and arm.teachers == "shared":
            students.setdefault(arm.teacher, []).append(results.title(name))
    if not students:
        return []
    taught = "; ".join(f"{', '.join(names)} from {results.title(teacher)}" for teacher, names in students.items())
    return [
        f"All seeds share one teacher: {taught}. The intervals do not cover the variation between seeds of the teacher."
    ]


def override_notes(results: Results) -> list[str]:
    """Return a note on the arms that train with settings of their own; their models are judged like all others."""
    changed = []
    for name in results.study.arms:
        settings = ", ".join(
            f"{key} {format_param(value)}" for key, value in list_overrides(results.study, name).items()
        )
        changed += [f"{results.title(name)}: {settings}"] if settings else []
    if not changed:
        return []
    return [f"Settings of an arm's own training: {'; '.join(changed)}. All arms are judged by the study's attack."]


def join_counts(values: Iterable[object]) -> str:
    """Return counts that may differ between records: 10000, or 1000 or 10000, or no."""
    return " or ".join(map(str, values)) or "no"


def name_seeds(seeds: Collection[int]) -> str:
    """Return 'seed 3' or 'seeds 3, 4'."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def list_seeds(reasons: Iterable[tuple[str, int, str]]) -> list[str]:
    """Return one line per arm and reason: 'standard: seeds 3, 4 failed.'; reasons: (arm, seed, reason)."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for arm, seed, reason in reasons:
        seeds.setdefault((arm, reason), []).append(seed)
    return [f"{arm}: {name_seeds(of_reason)} {reason}." for (arm, reason), of_reason in seeds.items()]


def _wilson_note(results: Results, metrics: list[str], arms: Collection[str]) -> list[str]:
    single = [(arm, metric) for arm in arms for metric in metrics if len(results.values(arm, metric)) == 1]
    images = {results.images(arm, metric) for arm, metric in single if "accuracy" in metric} - {0}
    if not images:
        return []
    return [
        f"[low, high] of one seed's model on {join_counts(sorted(images))} images: 95% interval of Wilson. It covers"
        " other images, not other seeds."
    ]


def _missing_seeds(results: Results, metrics: Collection[str], arms: Collection[str]) -> list[str]:
    reasons = []
    for gap in results.missing:
        state = "not in the ledger yet" if gap.state == "absent" else gap.state
        reasons.append((gap.arm, gap.seed, f"{state}: {gap.error}" if gap.error else state))
    missing = {(gap.arm, gap.seed) for gap in results.missing}
    for arm in results.study.arms:
        values = {metric: results.values(arm, metric) for metric in metrics}
        for seed in results.study.seeds:
            lost = [metric for metric in metrics if seed not in values[metric]]
            if lost and (arm, seed) not in missing:
                reasons.append((arm, seed, f"without a finite {', '.join(lost)}"))
    return list_seeds(reason for reason in reasons if reason[0] in arms)
