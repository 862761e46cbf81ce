"""Studies with arms that learn from a teacher's model: keys, order, resuming, damaged models."""

import pytest
from helpers.closed_form import Leaving, drain, outcome, shape, steps, study
from helpers.closed_form import run as run_job

from tune_interpreg.running.prune import find_surplus
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Job, Train

LEARNER = "{method: distill, lambda_kd: 0.1, teacher: adversarial}"
OWN = LEARNER.replace("adversarial}", "adversarial, teachers: per_seed}")
SEARCHED = (
    "{method: distill, teacher: adversarial, search: {maximize: val/adv_accuracy, trials: 4,"
    " space: {lambda_kd: {log_uniform: [0.05, 0.2]}}}}"
)
BOTH = "{method: distill + interpretation, lambda: 0.1, lambda_kd: 0.1, teacher: adversarial, targets: {samples: 2}}"
SEEDS = "[3, 4]"


def teachers(jobs, arm: str) -> dict[int, tuple[str, int]]:
    """Return seed → key and seed of the teacher, of the repeats of an arm."""
    models = [model for job in jobs if (job.arm, job.stage) == (arm, "repeats") for model in job.models]
    return {model.seed: (model.recipe.teacher.key, model.recipe.teacher.seed) for model in models}


def keys_of(jobs, arm: str) -> dict[int, str]:
    return {model.seed: model.key for job in jobs if job.arm == arm and job.trains for model in job.models}


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize(("arm", "expected"), [(LEARNER, {3: 3, 4: 3}), (OWN, {3: 3, 4: 4})])
def test_a_recipe_names_the_model_that_teaches_its_seed(
    tmp_path, arm: str, expected: dict[int, int], gpus: int
) -> None:
    of, store = study("adversarial", learner=arm, seeds=SEEDS, gpus=gpus), Store(tmp_path)
    ran = drain(of, store)
    keys = keys_of(ran, "adversarial")
    assert teachers(ran, "learner") == {seed: (keys[teacher], teacher) for seed, teacher in expected.items()}
    assert all(job.recipe.teacher.model == of.model for job in ran if job.arm == "learner")
    assert not any(job.stage == "maps" for job in ran)
    assert drain(of, store) == []
    assert Dispatcher(of, store, "f").settled() == graph.count_parts(of)


def test_a_searched_arm_learns_from_the_first_seeds_model(tmp_path) -> None:
    ran = drain(study("adversarial", learner=SEARCHED, seeds=SEEDS), Store(tmp_path))
    trials = [job for job in ran if job.stage == "search"]
    assert len(trials) == 4
    assert {job.recipe.teacher.key for job in trials} == {keys_of(ran, "adversarial")[3]}


def test_a_combination_takes_maps_and_model_of_one_teacher(tmp_path) -> None:
    """An arm that takes the maps alone has no teacher in its recipe: its key is that of earlier versions."""
    maps_alone = "{method: interpretation, lambda: 0.1, teacher: adversarial, targets: {samples: 2}}"
    ran = drain(study("adversarial", both=BOTH, alone=maps_alone, seeds=SEEDS), Store(tmp_path))
    recipes = {job.arm: job.recipe for job in ran if job.stage == "repeats"}
    (maps,) = [job.work[0] for job in ran if job.stage == "maps"]
    assert recipes["both"].maps == recipes["alone"].maps
    assert recipes["both"].maps.key == maps.key
    assert recipes["both"].teacher.key == maps.teacher
    assert recipes["alone"].teacher is None


def test_records_without_a_teacher_field_count_as_before(tmp_path) -> None:
    """Those of versions that knew no teachers of this kind."""
    of, store = study("adversarial", "standard", seeds=SEEDS), Store(tmp_path)
    drain(of, store)
    for record in store.records():
        if record["kind"] == "train":
            del record["recipe"]["teacher"]
            store.write_record(record)
    before = outcome(store)
    more = study("adversarial", "standard", seeds="[3, 4, 5]", learner=LEARNER)
    assert {(job.arm, job.seeds) for job in drain(more, store) if job.trains} == {
        ("adversarial", (5,)),
        ("standard", (5,)),
        *(("learner", (seed,)) for seed in (3, 4, 5)),
    }
    assert set(before) <= set(outcome(store))


def test_another_teacher_trains_its_students_again(tmp_path) -> None:
    store = Store(tmp_path)
    drain(study("adversarial", "standard", learner=LEARNER, seeds=SEEDS), store)
    other = study("adversarial", "standard", learner=LEARNER.replace("adversarial", "standard"), seeds=SEEDS)
    assert shape(drain(other, store)) == [("learner", "repeats", (3,)), ("learner", "repeats", (4,))]
    per_seed = study("adversarial", "standard", learner=OWN, seeds=SEEDS)
    assert shape(drain(per_seed, store)) == [("learner", "repeats", (4,))]


def test_a_teacher_damaged_during_a_run_fails_its_students_and_the_next_run_repeats_both(tmp_path) -> None:
    of, store = study("adversarial", learner=LEARNER, seeds=SEEDS), Store(tmp_path)
    dispatcher, leaving = Dispatcher(of, store, "f"), Leaving(store)
    running = steps(dispatcher, leaving)
    reader = next(job for job in running if job.arm == "learner")
    path = store.model_file(reader.recipe.teacher.key)
    path.write_bytes(b"spoilt")
    dispatcher.fail(reader, "unreadable")
    (record,) = [record for record in store.records() if record["arm"] == "learner"]
    assert record["state"] == "failed"
    assert record["error"].startswith(f"{path}: is damaged")
    assert "run again" in record["error"]
    while isinstance(job := dispatcher.next(), Job):
        run_job(dispatcher, job, leaving)
    assert {record["state"] for record in store.records() if record["arm"] == "learner"} == {"failed"}

    messages: list[str] = []
    again = Dispatcher(of, store, "f", messages.append)
    ran = list(steps(again, Leaving(store)))
    assert len(messages) == 1
    assert str(path) in messages[0]
    trained = [item.seed for job in ran if job.arm == "adversarial" for item in job.items if isinstance(item, Train)]
    assert trained == [3]
    assert {record["state"] for record in store.records() if record["kind"] == "train"} == {"done"}


def test_prune_keeps_a_teachers_model(tmp_path) -> None:
    """While its students are open, and later, because it is a repeat."""
    of, store = study("adversarial", learner=SEARCHED, seeds=SEEDS), Store(tmp_path)
    store.save_study(of)
    running = steps(Dispatcher(of, store, "f"), Leaving(store))
    teacher = next(job for job in running if job.arm == "learner").recipe.teacher.key
    surplus = [path for kind in find_surplus(store) for path in kind.paths]
    assert store.model_file(teacher) not in surplus
    list(running)
    surplus = [path for kind in find_surplus(store) for path in kind.paths]
    assert len(surplus) == 3, "one of 4 trials is the repeat"
    assert store.model_file(teacher) not in surplus
