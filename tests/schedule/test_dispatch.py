"""Whole studies through the dispatcher, with closed-form workers in place of trainings."""

import math
import shutil
from itertools import islice
from pathlib import Path

import pytest
from helpers.closed_form import (
    ARMS,
    TWINS,
    Leaving,
    drain,
    failing,
    outcome,
    run,
    shape,
    steps,
    strength,
    study,
    trainings,
    untrained,
    worker,
)

from tune_interpreg.planning.forecast import read_progress
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.search.journal import open_journal
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import AttackEntry, Resources, StageResources, Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.items import Item, Job


def searched(of: Study, store: Store, arm: str) -> dict[int, Record]:
    return Dispatcher(of, store, "f").progress.trials[arm]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize("workers", [1, 20])
def test_a_study_drains_with_every_part_once_and_matched_losses(store: Store, workers: int) -> None:
    of = study()
    ran = drain(of, store, workers=workers)
    trained = trainings(ran)
    assert graph.count_parts(of) == 15 + 10 + 1 + 10
    assert len(trained) == len(set(trained)) == 15 + 10 - 1, "the best trial of robust is the repeat of its seed"
    assert len(ran) == len({(job.key, job.trains) for job in ran}) == len(trained) + 1 + 1
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.settled() == dispatcher.total()
    assert len(dispatcher.progress.counting_records()) == len(store.records()) == len(trained) + 1 + 6 * 2 + 10 * 6 - 2
    assert not graph.blocked_arms(of, dispatcher.state)
    assert not list((store.path / "checkpoints").iterdir())
    chosen = {job.arm: strength(job) for job in ran if job.stage == "repeats"}
    tried = [strength(job) for job in ran if (job.arm, job.stage) == ("robust", "search")]
    assert chosen["robust"] == min(tried, key=lambda x: abs(math.log(x / 0.1)))
    assert [chosen[arm] for arm in ("permuted", "jacobian")] == pytest.approx([chosen["robust"]] * 2, rel=0.25)
    judged = {(job.arm, len(job.work)) for job in ran if job.stage == "search"}
    assert judged == {("robust", 2), ("permuted", 0), ("jacobian", 0)}, "a match by the loss alone judges no trial"


def test_resources_are_part_of_no_key(store: Store) -> None:
    of = study(**TWINS)
    drain(of, store)
    resources = Resources(cpus=9, judge=StageResources(cpus=1), maps=StageResources(cpus=2))
    assert drain(of.model_copy(update={"resources": resources}), store) == []


def test_a_finished_study_runs_nothing_and_writes_nothing(store: Store) -> None:
    of = study(**TWINS)
    drain(of, store)
    store.journal.unlink()
    files = sorted((path, path.stat().st_mtime_ns) for path in store.path.rglob("*"))
    assert drain(of, store) == []
    assert sorted((path, path.stat().st_mtime_ns) for path in store.path.rglob("*")) == files


@pytest.mark.thorough
def test_a_study_killed_anywhere_and_resumed_is_the_uninterrupted_study(store: Store, tmp_path: Path) -> None:
    twins = TWINS["one"].replace("trials: 8", "trials: 3").replace("standard", "adversarial")
    arms = {name: ARMS[name].replace("trials: 6", "trials: 4").replace("trials: 5", "trials: 4") for name in ARMS}
    of = study("adversarial", robust=arms["robust"], permuted=arms["permuted"], one=twins, seeds="[3]")
    answer = failing(lambda job, _: job.number == 3 and job.arm == "robust", "diverged")
    whole = []
    for count, job in enumerate(steps(Dispatcher(of, store, "f"), answer)):
        shutil.copytree(store.path, tmp_path / str(count))
        whole.append(job)
    for count in range(len(whole)):
        assert drain(of, Store(tmp_path / str(count)), answer) == whole[count:]
        shutil.rmtree(tmp_path / str(count))


@pytest.mark.parametrize("workers", [2, 5])
def test_interrupted_jobs_run_first_and_nothing_settled_runs_again(store: Store, tmp_path: Path, workers: int) -> None:
    of = study("adversarial", "robust", "jacobian")
    started = []
    for count, job in enumerate(steps(Dispatcher(of, store, "f"), workers=workers)):
        started.append(job)
        if count % 6:
            continue
        killed = Store(shutil.copytree(store.path, tmp_path / str(count)))
        before = {record["key"] for record in killed.records()}
        interrupted = [other for other in started if not {item.key for item in other.items} <= before]
        again = drain(of, killed, workers=workers)
        assert {other.key for other in again[: len(interrupted)]} == {other.key for other in interrupted}
        assert before.isdisjoint(item.key for other in again for item in other.items)
        assert len(killed.records()) == sum(len(job.items) for job in again) + len(before)


def test_a_job_that_dies_between_its_items_goes_on_with_the_next_one(store: Store, tmp_path: Path) -> None:
    """Each record is kept: the rest runs as a job of its own, and trains nothing again."""
    of = study("adversarial", "robust", seeds="[3]")
    for arm, stage, items in (("adversarial", "repeats", 1), ("adversarial", "repeats", 4), ("robust", "search", 2)):
        killed = Store(tmp_path / f"{stage}-{items}")
        dispatcher = Dispatcher(of, killed, "f")
        while (job := dispatcher.next()).arm != arm or job.stage != stage:
            run(dispatcher, job)
        run(dispatcher, job, items=items)
        before = {record["key"] for record in killed.records()}
        ran = drain(of, killed)
        assert job.models[0].key not in trainings(ran)
        rest = [other for other in ran if job.models[0].key in {model.key for model in other.models}]
        again = [item.key for other in rest for item in other.items if item.kind == "judge"]
        assert set(again[: len(job.items) - items]) == {item.key for item in job.items[items:]}
        assert before.isdisjoint(item.key for other in ran for item in other.items)
        assert not list((killed.path / "checkpoints").iterdir())


def test_a_record_counts_that_no_driver_has_taken(store: Store) -> None:
    of = study("standard")
    dispatcher = Dispatcher(of, store, "f")
    job = dispatcher.next()
    for item in job.items:
        store.write_record(worker(job, item))
    assert [other.seeds for other in drain(of, store)] == [(1,)]
    assert store.read_notes()[0] == []


def test_leftovers_of_a_settled_job_are_deleted(store: Store) -> None:
    """A run may die after it deleted the note and before it deleted the checkpoint."""
    of = study("standard")
    jobs = drain(of, store)
    for job, name in zip(jobs, ("job.json", "epoch.safetensors"), strict=True):
        store.note_start(job)
        (store.checkpoint_dir(job.key) / "epoch.safetensors").touch()
        (store.checkpoint_dir(job.key) / name).unlink()
    assert drain(of, store) == []
    assert store.checkpoint_keys() == set()


def test_a_read_only_store_counts_what_a_damaged_file_opens_again(store: Store) -> None:
    """`plan` looks at a store while a driver may use it: nothing changes, and the loop over damaged files ends."""
    of = study("adversarial", "robust", seeds="[0]")
    store.save_study(of)
    next(job for job in steps(Dispatcher(of, store, "f"), Leaving(store)) if job.stage == "maps")
    (model,) = store.path.glob("models/*")
    model.write_bytes(b"damaged")
    assert read_progress(of, store, "f").settled() == 0
    assert model.read_bytes() == b"damaged"
    assert len(store.records()) == 1 + 6


# --------------------------------------------------------------- measures come and go
def test_another_measure_judges_the_models_and_trains_nothing(store: Store) -> None:
    of = study()
    drain(of, store)
    entries = (AttackEntry(autoattack=7), AttackEntry(norm="linf", eps=0.1))
    attacked = of.model_copy(update={"evaluation": of.evaluation.model_copy(update={"attacks": entries})})
    more = drain(attacked, store)
    assert trainings(more) == []
    kinds = {(item.measure.kind, item.split) for job in more for item in job.items}
    assert kinds == {(kind, "test") for kind in ("autoattack", "compat", "strict")}
    assert len(more) == len(of.arms) * len(of.seeds)
    assert drain(attacked, store) == []
    assert drain(of, store) == [], "fewer measures run nothing"
    stronger = of.model_copy(update={"evaluation": of.evaluation.model_copy(update={"restarts": 3})})
    ran = drain(stronger, store)
    assert trainings(ran) == []
    assert {item.measure.kind for job in ran for item in job.items} == {"strict", "compat"}
    assert len([job for job in ran if job.stage == "search"]) == 6, "the search compares its trials again"


@pytest.mark.thorough
def test_digits_saves_the_repeats_that_its_searches_have_trained(store: Store) -> None:
    """Two of its arms maximize: the best trial of each is the repeat of seed 0."""
    digits = read_study_file("digits").study
    ran = drain(digits, store)
    assert sum(len(job.models) for job in ran if job.trains and job.stage == "repeats") == 6 * 5 - 2
    assert trainings(drain(digits, store)) == []


def test_another_choice_after_other_judgments_is_repeated(store: Store) -> None:
    """The best trial under the new attack is another one: its seed 0 is there, and the other seed is trained."""
    of = study("adversarial", "robust")
    drain(of, store)
    before = Dispatcher(of, store, "f").progress.choice("robust")
    stronger = of.model_copy(update={"evaluation": of.evaluation.model_copy(update={"restarts": 3})})

    def reversed_order(job: Job, item: Item) -> Record:
        record = worker(job, item)
        return record | {"metrics": {name: 1 - value for name, value in record["metrics"].items()}}

    ran = drain(stronger, store, reversed_order)
    after = Dispatcher(stronger, store, "f").progress.choice("robust")
    assert before is not None
    assert after is not None
    assert before["params"] != after["params"]
    assert [(job.arm, job.seeds) for job in ran if job.trains] == [("robust", (1,))]


def test_new_arms_seeds_and_trials_run_nothing_else(store: Store) -> None:
    drain(study("standard", "adversarial", "robust"), store)
    new = drain(study(), store)
    assert {job.arm for job in new} == {"permuted", "jacobian"}
    new = drain(study(seeds="[0, 1, 7]"), store)
    assert sorted(shape(new)) == [(arm, "repeats", (7,)) for arm in sorted(ARMS)]
    longer = {"jacobian": ARMS["jacobian"].replace("trials: 4", "trials: 6, tolerance: 1.0e-9")}
    new = drain(study(seeds="[0, 1, 7]", **longer), store)
    assert [job.number for job in new if job.stage == "search"] == [4, 5]
    assert {job.arm for job in new} == {"jacobian"}


def test_more_trials_with_the_same_choice_repeat_nothing_downstream(store: Store) -> None:
    drain(study(), store)
    worse = failing(lambda job, _: job.stage == "search")
    new = drain(study(robust=ARMS["robust"].replace("trials: 6", "trials: 8")), store, worse)
    assert shape(new) == [("robust", "search", (6,)), ("robust", "search", (7,))]


def test_a_reference_with_another_choice_is_matched_again(store: Store) -> None:
    drain(study(), store)
    weak = study(robust=ARMS["robust"].replace("[0.05, 0.2]", "[0.005, 0.02]"))
    new = drain(weak, store)
    chosen = {job.arm: strength(job) for job in new if job.stage == "repeats"}
    assert chosen.keys() == {"robust", "permuted", "jacobian"}
    assert chosen["robust"] <= 0.02
    assert chosen["permuted"] < 0.05


def test_trials_outside_of_a_changed_range_do_not_count_until_it_is_back(store: Store) -> None:
    of = study("adversarial", "robust")
    narrow = study("adversarial", robust=ARMS["robust"].replace("[0.05, 0.2]", "[0.08, 0.2]"))
    drain(of, store)
    before = {number: record["key"] for number, record in searched(of, store, "robust").items()}
    drain(narrow, store)
    trials = searched(narrow, store, "robust")
    assert 0 < sum(record["key"] == before[number] for number, record in trials.items()) < 6 == len(trials)
    assert all(record["recipe"]["params"]["lambda"] >= 0.08 for record in trials.values())
    assert drain(of, store) == []


def test_a_search_continues_after_its_choices_got_one_more_value(store: Store) -> None:
    of = study("adversarial", "robust")
    for job in steps(Dispatcher(of, store, "f")):
        if job.number == 3:
            break
    grown = study("adversarial", robust=ARMS["robust"].replace("[0.0, 1.0]", "[0.0, 1.0, 2.0]"))
    assert [job.number for job in drain(grown, store) if job.stage == "search"] == [3, 4, 5]


@pytest.mark.parametrize(
    ("lost", "blocked", "failures"),
    [
        (("robust", "search"), {"robust", "permuted", "jacobian"}, 6),
        (("adversarial", "repeats"), {"robust", "permuted", "jacobian"}, 2),
    ],
)
def test_a_lost_arm_blocks_the_arms_that_need_it_until_it_is_retried(
    store: Store, lost: tuple[str, str], blocked: set[str], failures: int
) -> None:
    of = study()
    ran = drain(of, store, failing(lambda job, item: untrained(job, item) and (job.arm, job.stage) == lost))
    assert graph.blocked_arms(of, Dispatcher(of, store, "f").state).keys() == blocked
    assert blocked.isdisjoint(job.arm for job in ran if job.stage == "repeats")
    assert drain(of, store) == []
    assert store.delete_failures() == failures
    whole = Store(store.path.with_name("whole"))
    assert len(ran) - failures + len(drain(of, store)) == len(drain(of, whole))
    assert outcome(store) == outcome(whole)


@pytest.mark.parametrize("workers", [1, 8])
def test_equal_trainings_run_once_and_count_for_each_arm(store: Store, workers: int) -> None:
    of = study("standard", **TWINS, two=TWINS["one"], again="{method: standard}")
    ran = drain(of, store, workers=workers)
    trained = trainings(ran)
    assert len(set(trained)) == len(trained)
    assert sum(job.stage == "search" and job.trains for job in ran) == 2
    assert sum(job.trains and job.recipe.method == "standard" for job in ran) == 2
    items = [item.key for job in ran for item in job.items]
    assert len(set(items)) == len(items), "a shared model is judged once"
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.settled() == dispatcher.total()
    for arm in ("one", "two"):
        assert set(searched(of, store, arm)) == set(range(8))
        trials = open_journal(store.journal).get_all_trials(open_journal(store.journal).get_study_id_from_name(arm))
        assert sorted(trial.user_attrs["number"] for trial in trials) == list(range(8))


def test_on_a_gpu_one_job_repeats_all_missing_seeds(store: Store) -> None:
    ran = drain(study(gpus=1), store)
    seeds = {job.arm: job.seeds for job in ran if job.stage == "repeats"}
    assert seeds == dict.fromkeys(ARMS, (0, 1)) | {"robust": (1,)}
    assert all(job.seeds == (0,) for job in ran if job.stage != "repeats")
    assert {(job.stage, job.seeds) for job in drain(study(gpus=1, seeds="[0, 1, 2, 5]"), store)} == {
        ("repeats", (2, 5))
    }
    assert [(job.stage, job.seeds) for job in drain(study(seeds="[0, 1, 2, 5, 6]"), store)] == [("repeats", (6,))] * 5


MEDIAN = ARMS["robust"].replace("trials: 6", "trials: 8, parallel: 2, pruner: median")


def with_curve(job: Job, item: Item) -> Record:
    """The closed form with a curve that rises to 0.6 in the second epoch."""
    return worker(job, item) | {"curve": [{"val/adv_accuracy": value} for value in (0.5, 0.6, 0.6)]}


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_pruner_gets_all_epochs_of_an_interrupted_trial(store: Store, interrupted: bool) -> None:
    """A trial with its best epoch before a kill continues; a trial that a kill saved from its pruner is stopped."""
    of = study("adversarial", robust=MEDIAN)
    dispatcher = Dispatcher(of, store, "f")
    jobs = islice(steps(dispatcher, with_curve, workers=2), 11)
    trials = {job.number: job for job in jobs if job.number is not None}
    good, bad = max(trials), max(trials) - 1
    first, second = ({"epoch": epoch, "val/adv_accuracy": value} for epoch, value in ((1, 0.9), (2, 0.3)))
    poor = {"epoch": 1, "val/adv_accuracy": 0.1}
    assert dispatcher.epoch(trials[good], first) is None
    if interrupted:
        dispatcher = Dispatcher(of, store, "f")
        assert [dispatcher.next(), dispatcher.next()] == [trials[bad], trials[good]]
        assert dispatcher.epoch(trials[good], first, second) is None
    else:
        assert dispatcher.epoch(trials[good], second) is None
    assert dispatcher.epoch(trials[bad], poor, second) == poor
    dispatcher.prune(trials[bad], poor, seconds=2.0, spent={"train": 2.0})
    (record,) = [other for other in store.records() if other["state"] == "pruned"]
    assert (record["metrics"], record["spent"]) == ({"val/adv_accuracy": 0.1}, {"train": 2.0})
    assert (record["number"], record["epochs"]) == (bad, 1)


def pruned(of: Study, store: Store, count: int) -> list[Job]:
    """Run the first trials of ``robust``, and prune every second one."""
    dispatcher = Dispatcher(of, store, "f")
    trials = []
    while len(trials) < count and isinstance(job := dispatcher.next(), Job):
        if job.number is not None and job.number % 2:
            dispatcher.prune(job, {"epoch": 1, "val/adv_accuracy": 0.9})
        else:
            run(dispatcher, job)
        trials += [job] * (job.stage == "search")
    return trials


def test_pruned_trials_run_again_without_the_pruner(store: Store) -> None:
    before = pruned(study("adversarial", robust=MEDIAN), store, 6)
    of = study("adversarial", robust=MEDIAN.replace(", pruner: median", ""))
    again = next(job for job in steps(Dispatcher(of, store, "f")) if job.stage == "search")
    assert again.number == 1
    assert [job.number for job in drain(of, store) if job.stage == "search"] == [1, 3, 5, 6, 7]
    assert {record["state"] for record in searched(of, store, "robust").values()} == {"done"}
    whole = {job.number: job.key for job in before if job.number is not None and job.number % 2 == 0}
    assert whole.items() <= {n: record["key"] for n, record in searched(of, store, "robust").items()}.items()
    assert drain(of, store) == []


GRID = "{method: jacobian, search: {maximize: val/adv_accuracy, grid: {lambda_j: [0.01, 0.1]}%s}}"


@pytest.mark.parametrize("running", [False, True])
def test_a_pruned_trial_is_no_result_of_an_equal_arm_without_a_pruner(store: Store, running: bool) -> None:
    of = study("standard", early=GRID % ", pruner: median", late=GRID % "", seeds="[0]")
    dispatcher = Dispatcher(of, store, "f")
    jobs = [job for job in (dispatcher.next() for _ in range(3)) if isinstance(job, Job)]
    assert [job.arm for job in jobs] == ["standard", "early", "early"]
    if running:
        assert dispatcher.next() is Pause.WAIT  # the other arm has equal trials
    for job in jobs[1:]:
        dispatcher.prune(job, {"epoch": 1, "val/adv_accuracy": 0.9})
    run(dispatcher, jobs[0])
    if not running:
        dispatcher = Dispatcher(of, store, "f")
    again = [job for job in steps(dispatcher) if job.stage == "search"]
    assert [(job.arm, job.number, job.key) for job in again] == [("late", n, jobs[1 + n].key) for n in (0, 1)]
    assert {record["state"] for record in searched(of, store, "late").values()} == {"done"}
    assert drain(of, store) == []


def test_trials_pruned_by_another_attack_run_again(store: Store) -> None:
    """Their values are accuracies under the former attack."""
    of = study("adversarial", robust=MEDIAN)
    pruned(of, store, 6)
    stronger = of.model_copy(update={"evaluation": of.evaluation.model_copy(update={"restarts": 3})})
    ran = [job for job in drain(stronger, store) if job.stage == "search"]
    assert [job.number for job in ran if job.trains] == [1, 3, 5, 6, 7]
    assert [job.number for job in ran if not job.trains] == [0, 2, 4]
