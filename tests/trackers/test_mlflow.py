"""MLflow, with a database of its own, read back by its client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.closed_form import drain, failing, study
from helpers.tracked import EPOCHS, curved, store_of

import tune_interpreg
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Train
from tune_interpreg.study.metric_names import TEST_STRICT, TRAIN_LOSS, VAL_ACCURACY
from tune_interpreg.trackers.export import export
from tune_interpreg.trackers.tracker import TrackerError

pytestmark = pytest.mark.thorough

mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow.MlflowClient]:
    """Return a client of a database in the working folder, which this module's exports write to, too."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs.db")
        yield mlflow.MlflowClient()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, client: mlflow.MlflowClient) -> Store:
    """Return the store of a finished study that was exported."""
    store = store_of(tmp_path_factory.mktemp("stores") / "store")
    assert export(store, "mlflow").startswith("mlflow: 11 trainings in experiment study of sqlite:///")
    return store


def read_runs(client: mlflow.MlflowClient, experiment: str = "study") -> tuple[mlflow.entities.Run, dict[str, dict]]:
    """Return the run of the study, and key → what MLflow holds of a training."""
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    trainings = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in trainings} <= {parent.info.run_id}
    held = {}
    for run in trainings:
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        points = {name: sorted((point.step, point.value) for point in history[name]) for name in history}
        held[run.data.tags["key"]] = {"run": run, "points": points, "status": run.info.status}
    assert len(held) == len(trainings), "one run per training"
    return parent, held


def read_points(client: mlflow.MlflowClient, experiment: str = "study") -> dict[str, dict]:
    """Return key → metric → its points (step, value)."""
    return {key: training["points"] for key, training in read_runs(client, experiment)[1].items()}


def test_runs_have_the_results_parameters_and_arms_of_the_data_frame(client: mlflow.MlflowClient, store: Store) -> None:
    frame = tune_interpreg.results(store.path)
    _, held = read_runs(client)
    for row in frame.itertuples():
        run = held[row.key]["run"]
        assert run.data.metrics[row.metric] == row.value
        assert run.data.tags["arm"] == run.data.params["arm"] == row.arm
        assert run.data.params.items() >= {name: str(value) for name, value in row.params.items()}.items()
        assert run.data.params["training.lr"] == "0.01"
        assert abs(run.info.end_time / 1000 - row.finished.timestamp()) <= 1, "the frame has whole seconds"
    assert len(frame) > 0


def test_curves_have_the_epoch_as_step(client: mlflow.MlflowClient, store: Store) -> None:
    _, held = read_runs(client)
    for training in held.values():
        loss = training["run"].data.metrics[TRAIN_LOSS]
        losses = dict(training["points"][TRAIN_LOSS])
        assert losses == pytest.approx({epoch: loss + EPOCHS - epoch for epoch in (1, 2, 3)})
        assert len(training["points"][TRAIN_LOSS]) == EPOCHS
        assert [step for step, _ in training["points"][VAL_ACCURACY]][:EPOCHS] == [1, 2, 3]


def test_the_tables_are_artifacts_of_the_studys_run(client: mlflow.MlflowClient, store: Store) -> None:
    parent, _ = read_runs(client)
    assert (parent.info.run_name, parent.info.status) == ("study", "FINISHED")
    paths = {file.path for file in client.list_artifacts(parent.info.run_id, "tables")}
    assert paths == {f"tables/{name}" for name in ("tables.md", "tables.tex", "tables.csv", "tables.json", "rows.json")}
    text = Path(client.download_artifacts(parent.info.run_id, "tables/tables.md")).read_text()
    assert "Std. Training" in text


def test_a_second_export_changes_nothing(client: mlflow.MlflowClient, store: Store) -> None:
    before = read_points(client)
    export(store, "mlflow")
    assert read_points(client) == before


def test_an_interrupted_export_is_completed_without_points_twice(
    client: mlflow.MlflowClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes away after the curve of a training."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "interrupted")

    def lose_connection(*_: object) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_tag", lose_connection)
        with pytest.raises(TrackerError, match=r"mlflow: ConnectionError: gone .*export again once it is repaired"):
            export(store, "mlflow")
    export(store, "mlflow")
    assert read_points(client, "interrupted") == read_points(client)


def test_later_judgments_go_to_the_run_of_their_training(
    client: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new attack adds a metric; another setting of the attack replaces a value, and back again."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "judged")
    plain = study("standard")
    further = plain.model_copy(
        update={"evaluation": type(plain.evaluation).model_validate({"checks": None, "attacks": [{"steps": 9}]})}
    )
    store = store_of(tmp_path / "store", plain)
    export(store, "mlflow")
    _, before = read_runs(client, "judged")
    store.save_study(further)
    drain(further, store, curved)
    export(store, "mlflow")
    _, after = read_runs(client, "judged")
    assert after.keys() == before.keys()
    (name,) = {name for name in next(iter(after.values()))["points"] if name.startswith(f"{TEST_STRICT}/")}
    for key, training in after.items():
        assert {metric: points for metric, points in training["points"].items() if metric in before[key]["points"]} == (
            before[key]["points"]
        )
        assert len(training["points"][name]) == 1


def test_the_latest_value_of_a_metric_counts_also_if_it_was_there_before(
    client: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "changed")
    store = store_of(tmp_path / "store", study("standard", seeds="[0]"))
    (path,) = (path for path in store.record_files() if TEST_STRICT in path.read_text())
    first = next(record for record in store.records() if TEST_STRICT in record["metrics"])
    for value in (0.25, 0.5, 0.25):
        store.write_checked(path, first | {"metrics": {TEST_STRICT: value}})
        export(store, "mlflow")
        _, held = read_runs(client, "changed")
        (training,) = held.values()
        assert training["run"].data.metrics[TEST_STRICT] == value


def test_states_are_mlflows(client: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "states")
    failed = failing(lambda job, item: isinstance(item, Train) and item.seed == 1)
    export(store_of(tmp_path / "store", study("standard"), failed), "mlflow")
    _, held = read_runs(client, "states")
    states = {training["run"].data.params["seed"]: training["status"] for training in held.values()}
    assert states == {"0": "FINISHED", "1": "FAILED"}


def test_a_server_that_is_away_is_one_message(
    client: mlflow.MlflowClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackerError, match=r"^mlflow: .*127\.0\.0\.1:9.*; export again once it is repaired$"):
        export(store, "mlflow")
