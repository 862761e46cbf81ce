"""The trials of searches: which of their metrics are shown, and under which names."""

from collections.abc import Mapping
from typing import NamedTuple

from analysis.results.results import Results
from tune_interpreg.study.metric_names import (
    ALIGNMENT,
    NORM_LOG_PROBABILITY,
    TRAIN_CE,
    TRAIN_LOSS,
    VAL_ACCURACY,
    VAL_ADV_ACCURACY,
)


class TrialMetric(NamedTuple):
    """A metric's heading, the unit shown, and the factor to it from the recorded unit."""

    heading: str
    unit: str = ""
    factor: float = 1.0

    @property
    def title(self) -> str:
        """Heading and unit: Adv. acc., %."""
        return f"{self.heading}, {self.unit}" if self.unit else self.heading


#: Metrics of trials, on validation images or of the training.
METRICS: Mapping[str, TrialMetric] = {
    VAL_ACCURACY: TrialMetric("Clean acc.", "%", 100.0),
    VAL_ADV_ACCURACY: TrialMetric("Adv. acc.", "%", 100.0),
    TRAIN_LOSS: TrialMetric("Training loss"),
    TRAIN_CE: TrialMetric("Cross-entropy"),
    f"val/{ALIGNMENT}": TrialMetric("Alignment"),
    f"val/{NORM_LOG_PROBABILITY}": TrialMetric("‖∇ log p‖"),
}


def list_trial_metrics(results: Results) -> dict[str, TrialMetric]:
    """Return those of ``METRICS`` that trials have, and the other metrics that a search maximizes or matches."""
    searches = [arm.search for arm in results.study.arms.values() if arm.search]
    sought = [metric for search in searches for metric in (search.maximize or search.matched_metric, *search.where)]
    trials = [trial for arm in results.study.arms for trial in results.current.list_trials(arm)]
    measured = {metric for trial in trials if trial["state"] == "done" for metric in trial["metrics"]}
    shown = {metric: METRICS.get(metric, TrialMetric(metric)) for metric in (*METRICS, *sought)}
    return {metric: shown[metric] for metric in shown if metric in measured}
