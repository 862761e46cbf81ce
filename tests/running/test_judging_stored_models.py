"""A change of what a study judges its models by runs judgments of stored models, and trains nothing."""

from pathlib import Path

import pandas as pd
import pytest
from helpers import cli
from helpers.in_process import run_study

from analysis.results.results import Results
from tune_interpreg import results
from tune_interpreg.running.prune import find_surplus
from tune_interpreg.store.store import Store

pytestmark = pytest.mark.thorough

STUDY = """
data: {{name: digits, train_limit: 96, validation: 40, test_limit: 40}}
training: {{epochs: 1, batch_size: 32, lr: 0.05}}
attack: {{norm: l2, eps: 0.5, steps: 2}}
evaluation: {{{evaluation}}}
seeds: [0, 1]
arms:
  standard: {{method: standard}}
  adversarial: {{method: adversarial}}
  robust:
    method: interpretation
    targets: {{teacher: adversarial, samples: 2}}
    search: {{space: {{lambda: {{log_uniform: [0.01, 1.0]}}}}, maximize: val/adv_accuracy, trials: 3}}
"""
BASE = "checks: null"
FURTHER = (
    "checks: {images: 10}, interpretability: {images: 20, deletion: false},"
    " attacks: [{norm: linf, eps: 0.05}, {name: weak, steps: 1}]"
)


def run(store: Store, evaluation: str) -> None:
    run_study(store, STUDY.format(evaluation=evaluation))


def finished(store: Store, kind: str) -> dict[str, str]:
    """Return arm and key → time of the end, of the records of a kind."""
    records = [record for record in store.records() if record["kind"] == kind]
    return {f"{record['arm']}/{record['key']}": record["finished"] for record in records}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("judged") / "store")
    run(store, BASE)
    return store


def test_the_chosen_trial_is_the_repeat_of_its_seed(store: Store) -> None:
    """3 trials and 2 seeds of an arm with a search are 4 trainings, and the study's 9 parts are 8 trainings."""
    trainings = [record for record in store.records() if record["kind"] == "train"]
    assert len([record for record in trainings if record["arm"] == "robust"]) == 4
    assert len(trainings) == len({record["key"] for record in trainings}) == 8
    assert all(store.model_file(record["key"]).exists() for record in trainings)


def test_further_judgments_train_nothing_and_appear_everywhere(store: Store) -> None:
    trained, judged = finished(store, "train"), finished(store, "judge")
    run(store, FURTHER)
    assert finished(store, "train") == trained
    assert finished(store, "judge").items() > judged.items()
    frame = results(store.path).pivot_table(index=["arm", "seed"], columns="metric", values="value")
    strict = frame["test/adv_accuracy_strict"]
    for name in ("linf_0.05", "weak"):
        assert len(frame[f"test/adv_accuracy_strict/{name}"].dropna()) == 6
    assert (frame["test/adv_accuracy_strict/weak"] >= strict).all(), "fewer steps are never stronger"
    assert len(frame["test/alignment"].dropna()) == 6
    assert len(frame["test/similarity_cosine/teacher"].dropna()) == 5, "the teacher is not compared with itself"
    assert len(frame["test/similarity_cosine/unseen"].dropna()) == 5
    printed = cli.output("report", str(store.path))
    for part in ("linf_0.05", "weak", "What the maps are like", "Gains under every attack"):
        assert part in printed
    assert "Deletion" not in printed, "it is not measured"
    page = (store.report_dir / "index.html").read_text()
    assert "Robustness and interpretability" in page
    assert "linf_0.05" in page


def test_each_judgment_counts_once_and_checks_are_judgments(store: Store) -> None:
    """Among the records of a stage, and in the seconds of its parts."""
    run(store, FURTHER)
    current = Results.from_store(store).current
    for arm in current.study.arms:
        keys = [record["key"] for stage, record in current.records_by_stage(arm) if stage == "judgments"]
        assert len(keys) == len(set(keys))
        assert {current.checks[arm][seed]["key"] for seed in (0, 1)} <= set(keys)
        total = sum(record["seconds"] for stage, record in current.records_by_stage(arm) if stage == "judgments")
        assert sum(current.seconds_of_parts(arm)["judgments"]) == pytest.approx(total)


def test_removed_entries_leave_the_tables_and_come_back_without_work(store: Store) -> None:
    run(store, FURTHER)
    judged = finished(store, "judge")
    run(store, BASE)
    metrics = set(results(store.path)["metric"])
    assert not any(metric.endswith(("/weak", "/alignment")) for metric in metrics)
    run(store, FURTHER)
    assert finished(store, "judge") == judged


def test_a_judgment_depends_on_nothing_but_the_model_and_its_settings(store: Store, tmp_path: Path) -> None:
    """A study that judges at once gets the bits that later judgments got."""
    run(store, FURTHER)
    at_once = Store(tmp_path / "store")
    run(at_once, FURTHER)
    later, once = (results(path).set_index(["arm", "seed", "metric"])["value"] for path in (store.path, at_once.path))
    pd.testing.assert_series_equal(later.sort_index(), once.sort_index(), check_exact=True)


def test_prune_deletes_what_no_judgment_needs(store: Store) -> None:
    run(store, FURTHER)
    surplus = {kind.kind: kind for kind in find_surplus(store)}
    assert len(surplus["models"].paths) == 2, "one of 3 trials is the repeat"
    assert "nothing deleted" in cli.output("prune", str(store.path), answer="n\n")
    unanswered = cli.call("prune", str(store.path))
    assert (unanswered.exit_code, "--yes deletes without a question" in unanswered.output) == (2, True)
    assert all(path.exists() for path in surplus["models"].paths)
    frame = results(store.path)
    cli.output("prune", str(store.path), "--yes")
    assert not any(path.exists() for kind in surplus.values() for path in kind.paths)
    assert find_surplus(store) == []
    trained = finished(store, "train")
    run(store, "checks: null, attacks: [{norm: linf, eps: 0.1}]")
    run(store, FURTHER)
    assert finished(store, "train") == trained
    pd.testing.assert_frame_equal(results(store.path), frame)


@pytest.mark.parametrize(
    ("evaluation", "parts"),
    [
        ("attacks: [{norm: linf}]", ["evaluation.attacks.0", "eps"]),
        ("attacks: [{steps: 9}, {restarts: 2}]", ["evaluation.attacks.1", "l2_0.5", "name"]),
        ("attacks: [{eps: 0}]", ["evaluation.attacks.0.eps", "0"]),
        ("attacks: [{autoattack: 50}]", ["evaluation.attacks.0.autoattack", "40 test images", "50"]),
        ("attacks: [{autoattack: 5, steps: 3}]", ["evaluation.attacks.0", "steps"]),
        ("attacks: [{norm: l1, eps: 1}]", ["evaluation.attacks.0.norm", "l1"]),
        ("interpretability: {images: 41}", ["evaluation.interpretability.images", "40 test images", "41"]),
        ("gradient_norms: {images: 1000}", ["evaluation.gradient_norms.images", "96 training images"]),
        ("attacks: [{name: a b, steps: 1}]", ["evaluation.attacks.0.name", "a b"]),
    ],
)
def test_bad_entries_are_refused_with_their_place(evaluation: str, parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(evaluation=evaluation))
    message = cli.refusal("run", str(file), "--store", str(tmp_path / "store"), "--cluster", "in-process")
    for part in parts:
        assert part in message
    assert not (tmp_path / "store").exists() or Store(tmp_path / "store").is_unused()
