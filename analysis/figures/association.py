"""The figure that answers the title: robustness against interpretability, one point per trained model."""

from matplotlib.figure import Figure

from analysis.figures import canvas
from analysis.figures.canvas import NothingToDraw
from analysis.results.results import Results
from analysis.tables.association import correlate, describe_interval, list_models, list_trial_models
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import VAL_ADV_ACCURACY


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw strict adversarial accuracy against alignment: repeats filled, trials of searches hollow."""
    models, trials = list_models(results), list_trial_models(results)
    if not models:
        raise NothingToDraw("no repeat has measures of interpretability; add evaluation.interpretability")
    drawing, (axes,) = canvas.panels(1, height=3.6)
    look = canvas.looks(results)
    for group, is_filled in ((trials, False), (models, True)):
        for arm in dict.fromkeys(model.arm for model in group):
            points = [model for model in group if model.arm == arm]
            axes.plot(
                [model.alignment for model in points],
                [100 * model.accuracy for model in points],
                look[arm].marker,
                color=look[arm].colour,
                markerfacecolor=look[arm].colour if is_filled else "none",
                markersize=6 if is_filled else 4,
                alpha=1.0 if is_filled else 0.6,
                label=look[arm].name if is_filled else None,
            )
    axes.set(xlabel="alignment |⟨x, g⟩| / ‖g‖", ylabel="adversarial accuracy (strict), %")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    total, partial = correlate(models)
    caption = f"Each point is a trained model, {len(models)} repeats on test images"
    caption += f"; hollow: {_describe_trials(len(trials), results)}" if trials else ""
    if total and partial:
        caption += (
            f". Over the repeats, {describe_interval(total)}; given log ‖∇ log p_y‖, {describe_interval(partial)}"
        )
        caption += ". Intervals: 95%, by a bootstrap over seeds; they cover other seeds, not other arms"
    return drawing, f"{caption}."


def _describe_trials(count: int, results: Results) -> str:
    """Return the number of drawn trials, and of how many: a study may ask for the measures after its searches."""
    attacked = [trial for arm in results.study.arms for trial in results.current.list_trials(arm)]
    total = sum(VAL_ADV_ACCURACY in trial["metrics"] for trial in attacked)
    rest = f" of {total} (the others were trained before the study asked for the measures)" if count < total else ""
    return f"trials on validation images, {count}{rest}"
