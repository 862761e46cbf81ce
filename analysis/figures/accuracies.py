"""Clean and adversarial accuracy: search trials on validation images, repeats on test images."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import canvas
from analysis.figures.canvas import Look, NothingToDraw, Options
from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_STRICT, VAL_ACCURACY, VAL_ADV_ACCURACY

Array = np.ndarray


def trial_accuracies(results: Results) -> dict[str, Array]:
    """Return arm → (clean, adversarial) validation accuracy of its finished search trials, T×2, percent."""
    by_arm = {}
    for arm in results.study.arms:
        done = [trial for trial in results.current.list_trials(arm) if trial["state"] == "done"]
        points = [[trial["metrics"].get(name) for name in (VAL_ACCURACY, VAL_ADV_ACCURACY)] for trial in done]
        complete = [point for point in points if None not in point]
        if complete:
            by_arm[arm] = 100 * np.asarray(complete, dtype=float)
    return by_arm


def repeat_accuracies(results: Results) -> dict[str, tuple[Interval, Interval]]:
    """Return arm → (clean, adversarial) test accuracy, percent, under the strict attack, of the arms that have both."""
    by_arm = {}
    for arm in results.study.arms:
        clean, strict = (results.estimate(arm, metric, 100).interval for metric in (TEST_ACCURACY, TEST_STRICT))
        if clean and strict:
            by_arm[arm] = (clean, strict)
    return by_arm


def axis_limits(values_T: Array) -> tuple[float, float]:
    """Return limits that a few low outliers do not stretch: max(min, q₁ − 3·(q₃ − q₁)) to max, plus 6%."""
    first, third = np.quantile(values_T, (0.25, 0.75))
    low, high = max(values_T.min(), first - 3 * (third - first)), values_T.max()
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw search trials on the left, repeats with intervals on the right."""
    trials, repeats = trial_accuracies(results), repeat_accuracies(results)
    if not trials and not repeats:
        raise NothingToDraw("no trial has both accuracies yet")
    look = canvas.looks(results)
    drawing, axes = canvas.panels(bool(trials) + bool(repeats), height=canvas.height_for(len(repeats), 3.3))
    caption = []
    if trials:
        draw_trials(axes[0], trials, look)
        count = sum(map(len, trials.values()))
        caption.append(f"Search: {count} trials of {len(trials)} arms, on validation images.")
    if repeats:
        draw_repeats(axes[-1], repeats, look)
        attack = results.study.evaluation_attack
        n_by_arm = {arm: min(clean.n, strict.n) for arm, (clean, strict) in repeats.items()}
        means = canvas.describe_means(n_by_arm, results, single="Wilson's over its images")
        caption.append(
            f"Repeats, test images: {means}; strict attack, {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps."
        )
    return drawing, " ".join([*caption, "Each arm has the same colour in all figures."])


def draw_trials(axes: Axes, trials: dict[str, Array], look: dict[str, Look]) -> None:
    """Draw search trials in their arms' colours."""
    many = sum(map(len, trials.values())) > canvas.MANY
    dots: Options = {"linestyle": "", "markersize": 2.5 if many else 5, "markeredgewidth": 0, "alpha": 0.75}
    for arm, points_T2 in trials.items():
        axes.plot(*points_T2.T, color=look[arm].colour, marker=look[arm].marker, rasterized=many, **dots)
    points_T2 = np.concatenate(list(trials.values()))
    clean, adversarial = (axis_limits(column_T) for column_T in points_T2.T)
    outside = int(((points_T2[:, 0] < clean[0]) | (points_T2[:, 1] < adversarial[0])).sum())
    if outside:
        text = f"{outside} trial{'s' * (outside > 1)} outside"
        canvas.annotate(axes, text, (0.02, 0.02), (0, 0), xycoords="axes fraction")
    axes.set(title="Search, validation images", xlabel="clean accuracy, %", ylabel="adversarial accuracy, %")
    axes.set(xlim=clean, ylim=adversarial)


def draw_repeats(axes: Axes, repeats: dict[str, tuple[Interval, Interval]], look: dict[str, Look]) -> None:
    """Draw repeats as crosses of two intervals, named at the right."""
    for arm, (clean, adversarial) in repeats.items():
        bars: Options = {"xerr": canvas.reach(clean), "yerr": canvas.reach(adversarial), "elinewidth": 1.1}
        axes.errorbar(clean.mean, adversarial.mean, fmt=look[arm].marker, color=look[arm].colour, **bars)
    axes.set(title="Repeats, test images", xlabel="clean accuracy, %", ylabel="adversarial accuracy, %")
    axes.margins(0.08)
    edge = axes.get_xlim()[1]
    canvas.label(axes, {arm: (edge, adversarial.mean) for arm, (_, adversarial) in repeats.items()}, look)
