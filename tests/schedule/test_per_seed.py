"""Studies with a teacher per seed: maps, keys and repeats depend on the seed."""

import pytest
from helpers.closed_form import drain, failing, steps, study

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
    taught = [item for item in ran if (item.arm, item.role) == ("adversarial", "repeat")]
    teachers = {seed: item.key for item in taught for seed in item.seeds}
    made = {item.seeds: item for item in ran if item.role == "targets"}
    assert made.keys() == {(3,), (4,)}
    repeats = [item for item in ran if (item.arm, item.role) == ("own", "repeat")]
    assert sorted(item.seeds for item in repeats) == [(3,), (4,)]
    for item in repeats:
        maps = item.recipe.maps
        assert maps is not None
        assert (maps.teacher, maps.teacher_seed) == (teachers[item.seeds[0]], item.seeds[0])
        assert maps.key == made[item.seeds].recipe.maps.key
    assert drain(of, store) == []
    assert Dispatcher(of, store, "f").settled() == graph.count_parts(of) == len(ran) + gpus


def test_a_search_uses_the_first_seeds_teacher(tmp_path) -> None:
    ran = drain(study("adversarial", own=SEARCHED, seeds="[3, 4]"), Store(tmp_path))
    searched = [item for item in ran if item.role == "search"]
    assert {item.recipe.maps.teacher_seed for item in searched} == {3}
    assert {item.recipe.maps.teacher_seed for item in ran if (item.arm, item.role) == ("own", "repeat")} == {3, 4}


def test_a_seed_without_a_teacher_blocks_nothing_else(tmp_path) -> None:
    of, store = study("adversarial", own=OWN, matched=MATCHED, seeds="[3, 4]"), Store(tmp_path)
    lost = failing(lambda item: item.arm == "adversarial" and item.seeds == (4,))
    ran = drain(of, store, lost)
    state = Dispatcher(of, store, "f").state
    assert graph.blocked_arms(of, state) == {"own": "has no target maps for seed 4: the teacher adversarial gave none"}
    assert {item.seeds for item in ran if (item.arm, item.role) == ("own", "repeat")} == {(3,)}
    assert {item.seeds for item in ran if (item.arm, item.role) == ("matched", "repeat")} == {(3,), (4,)}


def test_from_a_teacher_per_seed_to_a_shared_one_the_other_seeds_train_again(tmp_path) -> None:
    """The maps of the other seeds no longer count."""
    store, of = Store(tmp_path), study("adversarial", own=OWN.replace(", teachers: per_seed", ""), seeds="[3, 4, 5]")
    drain(study("adversarial", own=OWN, seeds="[3, 4, 5]"), store)
    dispatcher = Dispatcher(of, store, "f")
    assert (dispatcher.settled(), dispatcher.total()) == (5, 7)
    assert dispatcher.is_open()
    assert [(item.arm, item.role, item.seeds) for item in drain(of, store)] == [
        ("own", "repeat", (4,)),
        ("own", "repeat", (5,)),
    ]
    assert not Dispatcher(of, store, "f").is_open()


def test_interrupted_maps_run_first(tmp_path) -> None:
    of, store = study("adversarial", own=OWN, seeds="[3, 4]"), Store(tmp_path)
    for item in steps(Dispatcher(of, store, "f"), workers=4):
        if item.role == "targets" and item.seeds == (4,):
            break
    (first,) = [item for item in store.read_notes()[0] if item.role == "targets" and item.seeds == (3,)]
    store.drop_checkpoint(first.key)
    assert [item.seeds for item in drain(of, store) if item.role == "targets"] == [(4,), (3,)]


def test_from_a_shared_teacher_to_one_per_seed_only_the_other_seeds_run(tmp_path) -> None:
    store = Store(tmp_path)
    drain(study("adversarial", own=OWN.replace(", teachers: per_seed", ""), seeds="[3, 4]"), store)
    more = drain(study("adversarial", own=OWN, seeds="[3, 4]"), store)
    assert [(item.arm, item.role, item.seeds) for item in more] == [
        ("adversarial", "targets", (4,)),
        ("own", "repeat", (4,)),
    ]
