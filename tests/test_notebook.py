"""The commands as functions: the same checks and stores, results as frames, and the notebook as it is written."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tune_interpreg
from tune_interpreg import Study, stopping
from tune_interpreg.store.files import StoreError
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.problems import StudyError

pytestmark = pytest.mark.thorough

NOTEBOOK = Path(tune_interpreg.__file__).parent / "guides" / "notebook.ipynb"

TINY = {
    "name": "tiny",
    "data": {"name": "digits", "train_limit": 64, "validation": 20, "test_limit": 20},
    "training": {"epochs": 2, "batch_size": 32, "lr": 0.05},
    "attack": {"eps": 0.5, "steps": 1},
    "evaluation": {"checks": None},
    "seeds": [0, 1],
}
SEARCH = {"space": {"lambda_j": {"log_uniform": [0.001, 0.1]}}, "maximize": "val/accuracy", "trials": 2}
ARMS = {"standard": {"method": "standard"}, "jacobian": {"method": "jacobian", "search": SEARCH}}


def study(**arms: object) -> Study:
    return Study.model_validate(TINY | {"arms": arms or ARMS})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the store of a study that was run from Python."""
    folder = tmp_path_factory.mktemp("notebook") / "store"
    frame = tune_interpreg.run(study(), folder, cluster="in-process")
    assert set(frame.state) == {"done"}
    assert frame[frame.metric == "test/accuracy"].groupby("arm").size().to_dict() == {"standard": 2, "jacobian": 2}
    return folder


# ------------------------------------------------------------------------------- studies
def test_a_written_study_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    tune_interpreg.write_study(study(), path)
    assert tune_interpreg.read_study(path) == study()
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "resources" not in content, "defaults are left out"
    with pytest.raises(StudyError, match=r"tiny.yaml: exists already; .* overwrite=True"):
        tune_interpreg.write_study(study(), path)
    tune_interpreg.write_study(study(standard={"method": "standard"}), path, overwrite=True)
    assert list(tune_interpreg.read_study(path).arms) == ["standard"]


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_a_shipped_study_survives_python(name: str, tmp_path: Path) -> None:
    shipped = tune_interpreg.read_study(name)
    tune_interpreg.write_study(shipped, tmp_path / "copy.yaml")
    assert tune_interpreg.read_study(tmp_path / "copy.yaml") == shipped


@pytest.mark.parametrize(
    ("arm", "place", "message"),
    [
        ({"method": "jacobian", "lambda_q": 0.1}, "tiny: arms.a.params.lambda_q", "did you mean"),
        ({"method": "jacobain", "lambda_j": 0.1}, "tiny: arms.a.method", "jacobian"),
        ({"method": "interpretation", "lambda": 1.0, "targets": {"teacher": "b"}}, "tiny: arms.a", 'unknown arm "b"'),
    ],
)
def test_a_study_of_python_is_checked_like_a_file(arm: dict[str, object], place: str, message: str) -> None:
    """Each function refuses it before anything is written."""
    with pytest.raises(StudyError) as refused:
        tune_interpreg.run(study(a=arm), "nowhere", cluster="in-process")
    assert str(refused.value).startswith(place)
    assert message in str(refused.value)
    assert not Path("nowhere").exists()
    with pytest.raises(StudyError):
        tune_interpreg.plan(study(a=arm))


def test_overrides_belong_to_files() -> None:
    assert tune_interpreg.read_study("digits", ["training.epochs=3"]).training.epochs == 3
    with pytest.raises(StudyError, match="tiny: overrides belong to study files"):
        tune_interpreg.run(study(), overrides=["training.epochs=3"])


# --------------------------------------------------------------------------------- stores
def test_a_file_and_python_share_a_store(store: Path, tmp_path: Path) -> None:
    """Nothing is made again, so the keys are the same."""
    before = sorted((store / "ledger").rglob("*.json"))
    tune_interpreg.write_study(study(), tmp_path / "tiny.yaml")
    frame = tune_interpreg.run(tmp_path / "tiny.yaml", store, cluster="in-process")
    assert sorted((store / "ledger").rglob("*.json")) == before
    assert frame.equals(tune_interpreg.results(store))
    assert read_study_file(str(tmp_path / "tiny.yaml")).study == study()


def test_status_tables_and_figures_are_objects(store: Path, tmp_path: Path) -> None:
    status = tune_interpreg.read_status(store)
    assert (status.state, status.settled) == ("finished", status.total)
    tables = tune_interpreg.report(store, output=tmp_path / "report")
    accuracies = tables["Table 1. Accuracy on digits, %"]
    assert list(accuracies.index) == ["Std. Training", "Jacobian Reg."]
    assert accuracies.columns[0] == "Std. Acc."
    assert (tmp_path / "report" / "index.html").exists()
    figure = tune_interpreg.figure(store, "parameters")
    assert "Clean acc., %" in [axes.get_title(loc="left") for axes in figure.axes]


def test_an_unknown_figure_and_one_without_data_are_refused(store: Path) -> None:
    with pytest.raises(ValueError, match="no figure 'radius'; choose one of accuracies"):
        tune_interpreg.figure(store, "radius")
    with pytest.raises(ValueError, match="no search has matched"):
        tune_interpreg.figure(store, "matching")
    with pytest.raises(StoreError, match="is no store"):
        tune_interpreg.figure(store.parent, "accuracies")


def test_compare_is_there_too(store: Path, tmp_path: Path) -> None:
    other = study(standard={"method": "standard", "title": "Other"})
    tune_interpreg.run(other, tmp_path / "other", cluster="in-process")
    comparison = tune_interpreg.compare(store, tmp_path / "other")
    assert comparison.frame.groupby("store").arm.nunique().to_dict() == {"other": 1, "store": 2}


def test_names_that_are_not_offered_are_missing() -> None:
    assert all(hasattr(tune_interpreg, name) for name in tune_interpreg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'forecast'"):
        tune_interpreg.forecast  # noqa: B018


# ------------------------------------------------------------------------------ interrupts
def test_an_interrupt_does_not_end_a_process_that_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's process keeps its variables, however long the block takes to stop."""
    monkeypatch.setattr(stopping, "PATIENCE", 0.05)
    monkeypatch.setattr(stopping, "LIMIT", 0.1)
    with stopping.listen_for_stops(limit=False) as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.sigtimedwait([], 0.5)  # the time limit would be over
    assert stop.requested


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
import tune_interpreg

store = Path(sys.argv[2])

def interrupt():
    while not list(store.glob("ledger/*/*.json")):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    tune_interpreg.run(sys.argv[1], store, cluster="in-process")
except KeyboardInterrupt as error:
    print("interrupted:", tune_interpreg.read_status(store).state, file=sys.stderr)
frame = tune_interpreg.run(sys.argv[1], store, cluster="in-process")
print(sorted(set(frame.state)), tune_interpreg.read_status(store).state, file=sys.stderr)
"""


@pytest.mark.slow
def test_an_interrupted_run_continues_in_the_same_process(tmp_path: Path) -> None:
    tune_interpreg.write_study(study(), tmp_path / "tiny.yaml")
    code = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "tiny.yaml"), str(tmp_path / "store")]
    ran = subprocess.run(code, capture_output=True, text=True, cwd=tmp_path, timeout=250)
    assert ran.stderr.splitlines() == ["interrupted: stopped", "['done'] finished"], ran.stderr


# ------------------------------------------------------------------------------- notebook
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    import nbformat

    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of the kernel's own libraries
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells), "it is stored without outputs"
    nbclient.NotebookClient(book, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    shown = [output.data for output in outputs if "data" in output]
    assert any("image/png" in data for data in shown), "the figure"
    (first, *_) = [data["text/plain"] for data in shown if data.get("text/plain", "").startswith("notebook  ")]
    assert "12/12" in first, "the tree of arms, at the end"
    assert "'finished'" in [data.get("text/plain") for data in shown]
    assert "Differences between stores, points" in "".join(output.get("text", "") for output in outputs)
