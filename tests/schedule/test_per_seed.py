"""Studies with a teacher per seed: maps, keys and repeats depend on the seed."""

import pytest
from helpers.closed_form import drain, failing, shape, steps, study

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Store

OWN = "{method: interpretation, lambda: 0.1, targets: {teacher: adversarial, teachers: per_seed}}"
SEARCHED = (
    "{method: interpretation, targets: {teacher: adversarial, teachers: per_seed},"
    " search: {maximize: val/adv_accuracy, trials: 4, space: {lambda: {log_uniform: [0.05, 0.2]}}}}"
)
MATCHED = "{method: jacobian, search: {match_loss_of: own, trials: 4, space: {lambda_j: {log_uniform: [0.001, 1.0]}}}}"


@pytest.mark.parametrize("gpus", [0, 1])
def test_each_seed_trains_towards_its_own_teachers_maps(tmp_path, gpus: int) -> None:
    of, store = study("adversarial", own=OWN, seeds="[3, 4]", gpus=gpus), Store(tmp_path)
    ran = drain(of, store)
    taught = [job for job in ran if (job.arm, job.stage) == ("adversarial", "repeats")]
    teachers = {model.seed: model.key for job in taught for model in job.models}
    made = {job.seeds: job.work[0] for job in ran if job.stage == "maps"}
    assert {seeds: item.teacher for seeds, item in made.items()} == {(3,): teachers[3], (4,): teachers[4]}
    repeats = [job for job in ran if (job.arm, job.stage) == ("own", "repeats")]
    assert sorted(job.seeds for job in repeats) == [(3,), (4,)]
    for job in repeats:
        assert job.recipe.maps is not None
        assert job.recipe.maps.key == made[job.seeds].key
    assert drain(of, store) == []
    assert Dispatcher(of, store, "f").settled() == graph.count_parts(of)


def test_a_search_uses_the_first_seeds_teacher(tmp_path) -> None:
    ran = drain(study("adversarial", own=SEARCHED, seeds="[3, 4]"), Store(tmp_path))
    seeds = {job.work[0].key: job.seeds for job in ran if job.stage == "maps"}
    assert {seeds[job.recipe.maps.key] for job in ran if job.stage == "search"} == {(3,)}
    repeats = [job for job in ran if (job.arm, job.stage) == ("own", "repeats")]
    assert {seeds[job.recipe.maps.key] for job in repeats} == {(4,)}, "a trial is the repeat of seed 3"


def test_a_seed_without_a_teacher_blocks_nothing_else(tmp_path) -> None:
    of, store = study("adversarial", own=OWN, matched=MATCHED, seeds="[3, 4]"), Store(tmp_path)
    lost = failing(lambda job, _: job.arm == "adversarial" and job.seeds == (4,))
    ran = drain(of, store, lost)
    state = Dispatcher(of, store, "f").state
    assert graph.blocked_arms(of, state) == {"own": "has no target maps for seed 4: the teacher adversarial gave none"}
    assert {job.seeds for job in ran if (job.arm, job.stage) == ("own", "repeats")} == {(3,)}
    assert {job.seeds for job in ran if (job.arm, job.stage) == ("matched", "repeats")} == {(3,), (4,)}


def test_from_a_teacher_per_seed_to_a_shared_one_the_other_seeds_train_again(tmp_path) -> None:
    """The maps of the other seeds no longer count."""
    store, of = Store(tmp_path), study("adversarial", own=OWN.replace(", teachers: per_seed", ""), seeds="[3, 4, 5]")
    drain(study("adversarial", own=OWN, seeds="[3, 4, 5]"), store)
    dispatcher = Dispatcher(of, store, "f")
    assert (dispatcher.settled(), dispatcher.total()) == (3 + 1 + 1 + 4, 7 + 6)
    assert dispatcher.is_open()
    assert shape(drain(of, store)) == [("own", "repeats", (4,)), ("own", "repeats", (5,))]
    assert not Dispatcher(of, store, "f").is_open()


def test_interrupted_maps_run_first(tmp_path) -> None:
    of, store = study("adversarial", own=OWN, seeds="[3, 4]"), Store(tmp_path)
    for job in steps(Dispatcher(of, store, "f"), workers=4):
        if job.stage == "maps" and job.seeds == (4,):
            break
    (first,) = [job for job in store.read_notes()[0] if job.stage == "maps" and job.seeds == (3,)]
    store.drop_checkpoint(first.key)
    assert [job.seeds for job in drain(of, store) if job.stage == "maps"] == [(4,), (3,)]


def test_from_a_shared_teacher_to_one_per_seed_only_the_other_seeds_run(tmp_path) -> None:
    store = Store(tmp_path)
    drain(study("adversarial", own=OWN.replace(", teachers: per_seed", ""), seeds="[3, 4]"), store)
    more = drain(study("adversarial", own=OWN, seeds="[3, 4]"), store)
    assert shape(more) == [("adversarial", "maps", (4,)), ("own", "repeats", (4,))]
