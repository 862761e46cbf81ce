"""Measure the effect of bfloat16 in training's attacks and in target maps on accuracy, on a thousand images of MNIST.

Runs the study effect_precision.yaml, and its adversarial arm once more with ``attack.precision: bfloat16``, as
``tune-interpreg run`` does (an interrupted run is resumed), and prints Markdown. Models are judged in float32. Takes
about ten minutes on two cores:

    python tests/benchmarks/effect_precision.py --data-root DATA > tests/benchmarks/effect_precision.md
"""

from collections.abc import Iterator
from pathlib import Path

from effect_run import parse_options, run_study
from steps_report import describe_machine

from analysis.results.results import Results
from analysis.statistics.intervals import paired_differences, student_t
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_COMPAT, TEST_STRICT

STUDY = Path(__file__).with_suffix(".yaml")
ACCURACIES = {TEST_ACCURACY: "clean", TEST_STRICT: "adversarial, strict", TEST_COMPAT: "adversarial, compat"}
SHORT = ("attack.precision=bfloat16", "arms={adversarial: {method: adversarial}}")


def table(exact: Results, short: Results) -> Iterator[str]:
    """Yield the lines of a table; ``short`` holds the training with attacks in bfloat16."""
    yield "| bfloat16 in | accuracy | float32, % | bfloat16, % | difference, points, paired by seed |"
    yield "|---|---|---:|---:|---:|"
    pairs = (
        ("training's attack", "adversarial", short, "adversarial"),
        ("target maps", "interpretation", exact, "interpretation_bfloat16"),
    )
    for title, arm, others, other in pairs:
        for metric, name in ACCURACIES.items():
            ours, theirs = exact.values(arm, metric), others.values(other, metric)
            cells = []
            for values in (ours, theirs, paired_differences(theirs, ours)):
                percent = student_t(values.values()).scaled(100)
                low, high = percent.ends or (percent.mean, percent.mean)
                cells.append(f"{percent.mean:.2f} [{low:.2f}, {high:.2f}]")
            yield f"| {title} | {name} | {' | '.join(cells)} |"


def main() -> None:
    options = parse_options(STUDY, __doc__ or "")
    exact = run_study(STUDY, options.store / "float32", options)
    short = run_study(STUDY, options.store / "bfloat16", options, SHORT)
    print("# bfloat16 in attacks and maps", "", describe_machine("torch"), "", sep="\n")
    print(f"`{STUDY.name}`: n = {exact.seed_count} seeds, means with Student t intervals of 95%.", "", sep="\n")
    print(*table(exact, short), sep="\n")


if __name__ == "__main__":
    main()
