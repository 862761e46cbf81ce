"""The importances of searched parameters: one row per arm and parameter, one column per metric of the trials."""

from analysis.results.results import Results
from analysis.results.trials import list_trial_metrics
from analysis.tables.cells import ABSENT, Cell, Table
from analysis.tables.symbols import SYMBOLS
from tune_interpreg.search.importances import LEAST_TRIALS, MOST_TRIALS, TREES, Importances

NOTE = (
    f"Shares of the parameters in what a random forest of {TREES} trees learns of a metric of the trials: Optuna's mean"
    " decrease of impurity. Those of an arm add up to 1. Explained: R² of predictions of trials that a tree was not"
    " trained on; none: no better than their mean, so there are no shares. Only finished trials count,"
    f" {LEAST_TRIALS} or more, and of over {MOST_TRIALS} as many evenly spaced ones, of searches over two or more"
    " parameters. Shares of few trials are uncertain: simulations of two equal parameters gave 0.25 to 0.75 with 20"
    " trials, and 0.3 to 0.7 with 40. A search samples good regions more often; the shares are of its samples."
)


def importance_table(results: Results) -> Table:
    """Return the importances of all searches with enough trials."""
    metrics = list_trial_metrics(results)
    rows: list[dict[str, Cell]] = []
    for name, arm in results.study.arms.items():
        by_metric = {metric: results.importances(name, metric) for metric in metrics}
        computed = [importances for importances in by_metric.values() if importances]
        if arm.search is None or not computed:
            continue
        trials = sorted({importances.trials for importances in computed})
        for parameter in arm.search.ranges:
            row: dict[str, Cell] = {"Arm: parameter": f"{results.title(name)}: {SYMBOLS.get(parameter, parameter)}"}
            row |= {metrics[metric].heading: _share(of, parameter) for metric, of in by_metric.items()}
            rows.append(row | {"Trials": "–".join(map(str, dict.fromkeys((trials[0], trials[-1]))))})
        row = {"Arm: parameter": f"{results.title(name)}: explained"}
        row |= {metrics[metric].heading: _explained(of) for metric, of in by_metric.items()}
        rows.append(row | {"Trials": ""})
    return Table.from_rows("Importances of searched parameters", rows, [NOTE], "settings")


def list_shares(results: Results) -> list[dict[str, object]]:
    """Return arm, metric, parameter, share, explained and trials of every importance, unrounded."""
    lines: list[dict[str, object]] = []
    for arm in results.study.arms:
        for metric in list_trial_metrics(results):
            importances = results.importances(arm, metric)
            if importances:
                fields = {"explained": importances.explained, "trials": importances.trials}
                lines += [
                    {"arm": arm, "metric": metric, "parameter": parameter, "share": share} | fields
                    for parameter, share in importances.shares.items()
                ]
    return lines


def _share(importances: Importances | None, parameter: str) -> str:
    if importances is None or parameter not in importances.shares:
        return ABSENT
    return f"{importances.shares[parameter]:.2f}"


def _explained(importances: Importances | None) -> str:
    if importances is None:
        return ABSENT
    return f"{importances.explained:.2f}" if importances.explained > 0 else "none"
