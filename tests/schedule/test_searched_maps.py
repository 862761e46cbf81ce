"""Searches over settings of the teacher's maps: each trial has maps of its own, made before it trains."""

from pathlib import Path

from helpers.closed_form import Leaving, drain, steps, study, trainings, worker
from helpers.measured import all_pieces

from tune_interpreg.running.prune import find_surplus
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import MapSettings, Study
from tune_interpreg.study.items import Item, Job, Judge, Maps
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.setting import read_params

SIGMA = "targets.sigma: {uniform: [0.1, 0.5]}"


def searched(space: str = SIGMA, teachers: str = "shared", trials: int = 5, targets: str = "samples: 4") -> Study:
    return study(
        "adversarial",
        tuned=f"{{method: interpretation, lambda: 0.1, teacher: adversarial, teachers: {teachers},"
        f" targets: {{{targets}}},"
        f" search: {{maximize: val/adv_accuracy, trials: {trials}, space: {{{space}}}}}}}",
    )


def sigma_of(job: Job) -> float:
    assert job.recipe.maps is not None
    assert job.recipe.maps.settings is not None
    return job.recipe.maps.settings.sigma


def answer(job: Job, item: Item) -> Record:
    """The best sigma is 0.3."""
    record = worker(job, item)
    if isinstance(item, Judge) and job.arm == "tuned" and "val/adv_accuracy" in record["metrics"]:
        record["metrics"]["val/adv_accuracy"] = 1 - abs(sigma_of(job) - 0.3)
    return record


def maps_of(store: Store) -> list[Record]:
    return [record for record in store.records() if record["kind"] == "maps"]


def test_each_trial_has_maps_of_its_own_and_repeats_share_those_of_the_choice(tmp_path: Path) -> None:
    store, of = Store(tmp_path / "store"), searched()
    jobs = [job for job in drain(of, store, answer) if job.arm == "tuned" and job.trains]
    trials = [job for job in jobs if job.number is not None]
    (repeat,) = (job for job in jobs if job.number is None)
    for job in trials:
        assert job.maps is not None
        assert [(item.kind, item.key) for item in job.maps.items] == [("maps", job.recipe.maps.key)]
        assert job.maps.arm == "adversarial"
        assert job.maps.items[0].settings == MapSettings(sigma=sigma_of(job), samples=4)
        assert "targets.sigma" in job.title
    assert len({record["key"] for record in maps_of(store)}) == len(trials)
    best = min(trials, key=lambda job: abs(sigma_of(job) - 0.3))
    assert (repeat.maps, repeat.recipe) == (None, best.recipe)
    assert (store.read_choice("tuned") or {})["params"] == {"targets.sigma": sigma_of(best)}
    assert trainings(drain(of, store, answer)) == []
    current = Current(resolve_study(of), store.records(), {"tuned": store.read_choice("tuned") or {}})
    assert len(current.list_trials("tuned")) == len(trials)
    assert current.repeats["tuned"].keys() == {0, 1}


def test_teachers_per_seed_make_maps_for_each_repeat(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    jobs = [job for job in drain(searched(teachers="per_seed"), store, answer) if job.arm == "tuned" and job.trains]
    (repeat,) = (job for job in jobs if job.number is None)
    assert repeat.maps is not None
    assert repeat.seeds == repeat.maps.seeds == (1,)
    assert repeat.maps.items[0].settings.sigma == sigma_of(repeat)


def test_equal_maps_are_made_once(tmp_path: Path) -> None:
    """Also if two trials want them at the same time: the second one waits."""
    store = Store(tmp_path / "store")
    of = searched("targets.samples: {choice: [2, 3]}, phi: {uniform: [0.1, 1.5]}", trials=8, targets="sigma: 0.2")
    made: list[str] = []

    def counting(job: Job, item: Item) -> Record:
        if isinstance(item, Maps):
            made.append(item.key)
        return answer(job, item)

    jobs = list(steps(Dispatcher(of, store, "f"), counting, workers=3))
    assert len(made) == len(set(made)) <= 2
    numbers = [job.number for job in jobs if job.number is not None]
    assert sorted(numbers) == list(range(8))


def test_a_key_depends_on_the_maps_and_not_on_how_they_were_named(tmp_path: Path) -> None:
    """An arm with the same fixed settings has the same trainings."""
    store = Store(tmp_path / "store")
    of = study(
        "adversarial",
        fixed="{method: interpretation, lambda: 0.1, teacher: adversarial, targets: {sigma: 0.25, samples: 4}}",
        tuned="{method: interpretation, lambda: 0.1, teacher: adversarial, targets: {samples: 4},"
        " search: {maximize: val/adv_accuracy, grid: {targets.sigma: [0.25]}}}",
    )
    drain(of, store)
    keys = {
        arm: {record["key"] for record in store.records() if record["kind"] == "train" and record["arm"] == arm}
        for arm in ("fixed", "tuned")
    }
    assert keys["fixed"] == keys["tuned"]
    current = Current(resolve_study(of), store.records(), {"tuned": store.read_choice("tuned") or {}})
    assert [read_params(trial["recipe"], ["targets.sigma"]) for trial in current.list_trials("tuned")] == [
        {"targets.sigma": 0.25}
    ]
    assert drain(of, store) == []


def test_a_search_that_starts_to_vary_the_maps_counts_equal_trials_of_before(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    arm = (
        "{method: interpretation, lambda: 0.1, teacher: adversarial, targets: TARGETS, search: {maximize: val/accuracy,"
    )
    before = study("adversarial", tuned=f"{arm} grid: {{phi: [0.5, 1.0]}}}}}}".replace("TARGETS", "{sigma: 0.25}"))
    drain(before, store)
    grid = "grid: {targets.sigma: [0.25, 0.5], phi: [0.5, 1.0]}"
    after = study("adversarial", tuned=f"{arm} {grid}}}}}".replace("TARGETS", "{}"))
    again = [job for job in drain(after, store) if job.arm == "tuned" and job.trains and job.number is not None]
    assert [job.number for job in again] == [2, 3]
    assert drain(after, store) == []


def kill_trial_1(of: Study, store: Store, leaving: Leaving) -> Job:
    """Return the job of trial 1. The driver died while it ran, after its worker had made the maps."""
    killed = next(job for job in steps(Dispatcher(of, store, "f"), leaving) if job.number == 1)
    assert killed.maps is not None
    for item in killed.maps.items:
        store.write_record(leaving(killed.maps, item))
    return killed


def test_a_killed_trial_goes_on_with_its_maps(tmp_path: Path) -> None:
    """Damaged maps of a trial under way are made again."""
    store, of = Store(tmp_path / "store"), searched(trials=3)
    leaving = Leaving(store)
    killed = kill_trial_1(of, store, leaving)
    assert killed.recipe.maps is not None
    store.maps_file(killed.recipe.maps.key).write_bytes(b"spoilt")
    again = drain(of, store, leaving)
    assert [job.number for job in again if job.number is not None] == [1, 2]
    assert trainings(again)[0] == killed.models[0].key
    assert again[0].maps == killed.maps


def test_maps_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    store, of = Store(tmp_path / "store"), searched(trials=2)
    leaving = Leaving(store)
    kill_trial_1(of, store, leaving)
    (first, *_) = drain(of, store, leaving)
    assert (first.number, first.maps) == (1, None)


def test_prune_keeps_what_an_open_search_reads(tmp_path: Path) -> None:
    store, of = Store(tmp_path / "store"), searched(trials=3)
    store.save_study(of)
    drain(of, store, Leaving(store))
    surplus = {path for each in find_surplus(store) for path in each.paths}
    assert surplus, "maps of trials that are over can go"
    chosen = {record["key"] for record in store.records() if record["kind"] == "train" and record["number"] is None}
    assert not surplus & {store.model_file(key) for key in chosen}


def test_pruned_maps_that_a_further_trial_reads_are_made_again(tmp_path: Path) -> None:
    store, space = Store(tmp_path / "store"), "targets.samples: {choice: [2, 3]}, phi: {uniform: [0.1, 1.5]}"
    few, many = (searched(space, trials=trials, targets="sigma: 0.2") for trials in (4, 8))
    store.save_study(few)
    leaving = Leaving(store)
    drain(few, store, leaving)
    for each in find_surplus(store):
        for path in each.paths:
            path.unlink()
    again = drain(many, store, leaving)
    assert {job.number for job in again if job.number is not None} == {4, 5, 6, 7}
    assert {record["state"] for record in store.records()} == {"done"}


def test_a_plan_counts_the_maps_of_each_trial() -> None:
    pieces = [piece for piece in all_pieces(searched()) if isinstance(piece.content, MapSettings)]
    assert len(pieces) == 5
    per_seed = [piece for piece in all_pieces(searched(teachers="per_seed")) if isinstance(piece.content, MapSettings)]
    assert len(per_seed) == 6
