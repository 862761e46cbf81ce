"""The graph of arms: what can start when, and every study drains under any failures."""

import random
from collections import Counter

import pytest
from helpers.studies import parse_study
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import StageParts, State, Task
from tune_interpreg.study.config import Arm, Checks, Study, Targets
from tune_interpreg.study.space import Search

TEACHER = "  teacher: {method: adversarial}\n"
PUPIL = "  pupil: {method: interpretation, lambda: 0.1, targets: {teacher: teacher}}\n"
MATCH = (
    "  match: {method: jacobian, search: {match_loss_of: teacher, trials: 3,"
    " space: {lambda_j: {log_uniform: [0.001, 1.0]}}}}\n"
)


def study(*arms: str, seeds: str = "[5, 6]", gpus: int = 0) -> Study:
    text = f"checks: null\nseeds: {seeds}\nresources: {{gpus: {gpus}}}\narms:\n" + "".join(arms)
    return parse_study(text)


def ready(of: Study, state: State) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return what can start, without judgments."""
    tasks = [task for task in graph.ready_tasks(of, state) if task.stage != "judgments"]
    return [(task.arm, task.stage, task.parts) for task in tasks]


# ------------------------------------------------------------- what starts when
def test_arms_without_needs_start_with_all_seeds() -> None:
    of = study(TEACHER, "  other: {method: standard}\n")
    state = State.empty(of)
    assert ready(of, state) == [("teacher", "repeats", (s,)) for s in (5, 6)] + [
        ("other", "repeats", (s,)) for s in (5, 6)
    ]
    state.repeats["teacher"].running.add(5)
    state.repeats["teacher"].lost.add(6)
    state.repeats["other"].done.add(5)
    assert ready(of, state) == [("other", "repeats", (6,))]
    assert (state.running, state.settled, graph.count_parts(of)) == (1, 2, 8)


def test_maps_need_only_the_teachers_first_seed_and_come_first() -> None:
    of = study(PUPIL, TEACHER)
    state = State.empty(of)
    state.repeats["teacher"].done.add(6)
    assert ready(of, state) == [("teacher", "repeats", (5,))]
    state.repeats["teacher"] = StageParts(done={5})
    assert ready(of, state) == [("teacher", "maps", (5,)), ("teacher", "repeats", (6,))]
    (maps,) = state.maps.values()
    maps.running.add(5)
    assert ready(of, state) == [("teacher", "repeats", (6,))]
    maps.running.clear()
    maps.done.add(5)
    assert ready(of, state) == [("teacher", "repeats", (6,)), ("pupil", "repeats", (5,)), ("pupil", "repeats", (6,))]


def test_an_arm_that_learns_from_a_model_waits_for_the_teachers_first_seed_alone() -> None:
    """It needs no maps. With a teacher per seed, each seed waits for its own."""
    learner = "  learner: {method: distill, lambda_kd: 0.1, teacher: teacher}\n"
    of = study(TEACHER, learner)
    state = State.empty(of)
    assert not state.maps
    state.repeats["teacher"] = StageParts(done={6}, running={5})
    assert ready(of, state) == []
    state.repeats["teacher"] = StageParts(done={5}, running={6})
    assert ready(of, state) == [("learner", "repeats", (5,)), ("learner", "repeats", (6,))]
    of = study(TEACHER, learner.replace("teacher}", "teacher, teachers: per_seed}"))
    assert ready(of, state) == [("learner", "repeats", (5,))]
    state.repeats["teacher"] = StageParts(done={5}, lost={6})
    state.repeats["learner"].done.add(5)
    reason = "has no model to learn from for seed 6: the teacher teacher gave none"
    assert graph.blocked_arms(of, state) == {"learner": reason}
    assert graph.is_arm_over(of, state, "learner")


@pytest.mark.parametrize("gpus", [0, 1])
def test_with_a_teacher_per_seed_each_seed_waits_for_its_own_maps(gpus: int) -> None:
    of = study(TEACHER, PUPIL.replace("teacher}", "teacher, teachers: per_seed}"), gpus=gpus)
    state = State.empty(of)
    state.repeats["teacher"].done |= {5, 6}
    assert ready(of, state) == [("teacher", "maps", (5,)), ("teacher", "maps", (6,))]
    assert graph.count_parts(of) == 10
    (maps,) = state.maps.values()
    maps.done.add(6)
    maps.lost.add(5)
    assert ready(of, state) == [("pupil", "repeats", (6,))]
    state.repeats["pupil"].done.add(6)
    assert "for seed 5" in graph.blocked_arms(of, state)["pupil"]


def test_a_match_does_not_wait_for_a_seed_of_its_reference_without_a_teacher() -> None:
    per_seed = PUPIL.replace("teacher}", "teacher, teachers: per_seed}")
    of = study(TEACHER, per_seed, MATCH.replace("match_loss_of: teacher", "match_loss_of: pupil"))
    state = State.empty(of)
    state.repeats["teacher"] = StageParts(done={6}, running={5})
    state.repeats["pupil"].done.add(6)
    (maps,) = state.maps.values()
    maps.done.add(6)
    assert ready(of, state) == []
    state.repeats["teacher"] = StageParts(done={6}, lost={5})
    assert ready(of, state) == [("match", "search", (0,))]
    state.repeats["teacher"] = StageParts(done={5, 6})
    maps.lost.add(5)
    assert ready(of, state) == [("match", "search", (0,))]


def test_shared_and_per_seed_pupils_use_the_same_maps() -> None:
    per_seed = PUPIL.replace("pupil", "per_seed").replace("teacher}", "teacher, teachers: per_seed}")
    of = study(TEACHER, PUPIL, per_seed)
    state = State.empty(of)
    state.repeats["teacher"].done |= {5, 6}
    assert ready(of, state) == [("teacher", "maps", (5,)), ("teacher", "maps", (6,))]
    (maps,) = state.maps.values()
    maps.done.add(5)
    assert [task for task in ready(of, state) if task[1] == "repeats"] == [
        ("pupil", "repeats", (5,)),
        ("pupil", "repeats", (6,)),
        ("per_seed", "repeats", (5,)),
    ]


def test_pupils_with_equal_map_settings_share_maps() -> None:
    second = PUPIL.replace("pupil", "second")
    shared = study(TEACHER, PUPIL, second.replace("teacher}", "teacher, permute: true}"))
    apart = study(TEACHER, PUPIL, second.replace("teacher}", "teacher, samples: 3}"))
    assert (len(State.empty(shared).maps), len(State.empty(apart).maps)) == (1, 2)
    assert (graph.count_parts(shared), graph.count_parts(apart)) == (13, 14)


def test_a_match_waits_for_all_repeats_of_its_reference_and_needs_one_that_is_done() -> None:
    of = study(MATCH, TEACHER)
    state = State.empty(of)
    repeats = state.repeats["teacher"]
    repeats.done.add(5)
    repeats.running.add(6)
    assert ready(of, state) == []
    repeats.running.clear()
    repeats.lost.add(6)
    assert ready(of, state) == [("match", "search", (0,))]
    state.repeats["teacher"] = StageParts(lost={5, 6})
    assert ready(of, state) == []
    assert graph.blocked_arms(of, state) == {"match": "has no loss to match: no seed of teacher finished"}


def test_trials_run_at_once_and_repeats_wait_for_all_of_them() -> None:
    of = study(MATCH, TEACHER)
    state = State.empty(of)
    state.repeats["teacher"].done |= {5, 6}
    search = state.searches["match"]
    for number in range(3):
        assert ready(of, state) == [("match", "search", (number,))]
        search.running.add(number)
    assert ready(of, state) == []
    search.running -= {0, 1}
    search.done.add(0)
    search.lost.add(1)
    assert ready(of, state) == []
    search.running.clear()
    search.lost.add(2)
    assert ready(of, state) == [("match", "repeats", (5,)), ("match", "repeats", (6,))]
    search.done.clear()
    search.lost.add(0)
    assert ready(of, state) == []
    assert graph.blocked_arms(of, state) == {"match": "no trial of its search finished"}


@pytest.mark.parametrize("parallel", [1, 2, 3])
@pytest.mark.parametrize("match", [False, True])
def test_a_trial_waits_for_the_trials_that_it_is_proposed_from(parallel: int, match: bool) -> None:
    """All but the last ``parallel`` before it; of a match, all earlier rounds."""
    pruned = MATCH.replace("match_loss_of: teacher", "maximize: val/accuracy")
    of = study((MATCH if match else pruned).replace("trials: 3", f"trials: 9, parallel: {parallel}"), TEACHER)
    state = State.empty(of)
    state.repeats["teacher"].done |= {5, 6}
    search = state.searches["match"]

    def started() -> list[int]:
        return [task.parts[0] for task in graph.ready_tasks(of, state) if task.stage == "search"]

    for number in range(parallel):
        assert started() == [number]
        search.running.add(number)
    assert started() == []
    for number in range(parallel - 1, 0, -1):
        search.running.remove(number)
        search.done.add(number)
        assert started() == [], "the first trial is the one that counts"
    search.running.discard(0)
    search.lost.add(0)
    assert started() == [parallel]
    search.running.add(parallel)
    search.done.discard(parallel - 1)
    search.running.add(parallel - 1)
    assert started() == ([] if match or parallel < 3 else [parallel + 1])


def test_a_match_starts_no_trial_that_it_does_not_need() -> None:
    of = study(MATCH.replace("trials: 3", "trials: 9"), TEACHER)
    state = State.empty(of)
    state.repeats["teacher"].done |= {5, 6}
    search = state.searches["match"]
    search.done |= {0, 1, 2}
    state.matched["match"] = 4
    assert ready(of, state) == [("match", "search", (3,))]
    assert not graph.is_search_over(of, state, "match")
    search.running.add(3)
    assert ready(of, state) == []
    search.running.clear()
    search.lost.add(3)
    assert graph.is_search_over(of, state, "match")
    assert ready(of, state) == [("match", "repeats", (5,)), ("match", "repeats", (6,))]


def test_a_bounded_search_waits_until_all_seeds_of_the_other_arm_are_judged() -> None:
    bounded = MATCH.replace("match_loss_of: teacher", "maximize: val/adv_accuracy").replace(
        "trials: 3", "trials: 3, where: {val/accuracy: {within: 0.01, of: teacher}}"
    )
    of = study(bounded, TEACHER)
    assert of.arms["match"].needs == ("teacher",)
    state = State.empty(of)
    state.repeats["teacher"].done.add(5)
    state.waiting["teacher"].add(5)
    assert ready(of, state) == [("teacher", "repeats", (6,))]
    state.repeats["teacher"].done.add(6)
    assert ready(of, state) == [], "seed 6 is not judged"
    state.waiting["teacher"].add(6)
    assert ready(of, state) == [("match", "search", (0,))]
    state.repeats["teacher"] = StageParts(lost={5, 6})
    assert ready(of, state) == []
    assert graph.blocked_arms(of, state) == {"match": "has no bound for where: no seed of teacher finished"}


def test_a_search_without_a_choice_blocks_its_arm() -> None:
    of = study(MATCH, TEACHER)
    state = State.empty(of)
    state.repeats["teacher"].done |= {5, 6}
    state.searches["match"].done |= {0, 1, 2}
    assert "train/loss" in graph.blocked_arms(of, state)["match"]


def test_arms_that_most_others_need_come_first() -> None:
    deeper = MATCH.replace("match:", "deeper:").replace("match_loss_of: teacher", "match_loss_of: match")
    of = study("  alone: {method: standard}\n", deeper, MATCH, TEACHER)
    assert graph.dependents(of, "teacher") == {"match", "deeper"}
    assert [task.arm for task in graph.ready_tasks(of, State.empty(of))] == ["teacher", "teacher", "alone", "alone"]


# ------------------------------------------------------------ any study, any failures
@st.composite
def studies(draw: st.DrawFn) -> Study:
    """Draw an acyclic study of up to six arms, in any order."""
    arms: dict[str, Arm] = {}
    for n in range(draw(st.integers(1, 6))):
        earlier = st.none() | st.sampled_from(sorted(arms)) if arms else st.none()
        teacher, match = draw(earlier), draw(earlier)
        goal = {"match_loss_of": match} if match else {"maximize": "val/accuracy"}
        space = {"lambda": {"log_uniform": (0.1, 1.0)}}
        search = Search(space=space, trials=draw(st.integers(1, 3)), **goal) if match or draw(st.booleans()) else None
        taught = {"teacher": teacher, "teachers": draw(st.sampled_from(["shared", "per_seed"]))} if teacher else {}
        by_maps = teacher and draw(st.booleans())  # else by its model
        targets = Targets(samples=draw(st.sampled_from([3, 4]))) if by_maps else None
        method = draw(st.sampled_from(["m", "standard", "adversarial"]))
        arms[f"a{n}"] = Arm(method=method, targets=targets, search=search, **taught)
    shuffled = draw(st.permutations(list(arms)))
    seeds, gpus = draw(st.sampled_from([(0,), (3, 1), (0, 1, 2)])), draw(st.sampled_from([0, 1]))
    checks = draw(st.sampled_from([None, Checks()]))
    return Study(arms={name: arms[name] for name in shuffled}, seeds=seeds, resources={"gpus": gpus}, checks=checks)


def assert_prerequisites(of: Study, state: State, task: Task) -> None:
    arm, seeds = of.arms[task.arm], set(of.seeds)
    if task.maps:
        pupils = [pupil for pupil in of.arms.values() if graph.maps_key(pupil) == (task.arm, task.maps)]
        per_seed = any(pupil.teachers == "per_seed" for pupil in pupils)
        assert set(task.parts) <= (seeds if per_seed else {of.seeds[0]})
        assert set(task.parts) <= state.repeats[task.arm].done
        return
    if task.stage == "judgments":
        assert set(task.parts) <= state.repeats[task.arm].done
        if task.parts[0] in state.waiting[task.arm]:
            sources = [
                name for name in graph.attack_sources(of) if not of.arms[name].search or state.searches[name].done
            ]
            assert all(set(task.parts) <= state.repeats[name].settled for name in sources)
        return
    if arm.teacher:
        trained = task.parts if task.stage == "repeats" else of.seeds[:1]
        needed = {graph.teacher_seed(of, arm, seed) for seed in trained}
        assert needed <= state.repeats[arm.teacher].done
        assert arm.targets is None or needed <= state.maps[graph.maps_key(arm)].done
    if arm.search and arm.search.match_loss_of:
        reference = state.repeats[arm.search.match_loss_of]
        assert reference.done
        assert not reference.running
        assert reference.settled == seeds or graph.is_arm_over(of, state, arm.search.match_loss_of)
    if task.stage == "repeats" and arm.search:
        assert len(state.searches[task.arm].settled) == arm.search.trials
        assert state.searches[task.arm].done


@pytest.mark.parametrize("workers", [1, 3, 100])
@settings(max_examples=120, deadline=None)
@given(of=studies(), seed=st.integers(0, 2**32), failures=st.sampled_from([0.0, 0.1, 0.5]))
def test_any_study_drains_in_any_order_under_any_failures(of: Study, seed: int, failures: float, workers: int) -> None:
    rng, state = random.Random(seed), State.empty(of)
    running: list[Task] = []
    starts: Counter[tuple[object, ...]] = Counter()
    while True:
        while len(running) < workers and (task := next(graph.ready_tasks(of, state), None)):
            assert_prerequisites(of, state, task)
            kind = (task.stage, *(part in state.waiting[task.arm] for part in task.parts))
            starts.update((task.arm, kind, task.maps, part) for part in task.parts)
            state.stage_of(task).running.update(task.parts)
            running.append(task)
        assert state.running == sum(len(task.parts) for task in running)
        if not running:
            break
        task = running.pop(rng.randrange(len(running)))
        if rng.random() < failures:
            stage = state.stage_of(task)
            stage.running.difference_update(task.parts)
            stage.lost.update(task.parts)
        else:
            graph.finish(of, state, task)
    assert set(starts.values()) <= {1}
    unfinished = {name for name in of.arms if state.repeats[name].settled != set(of.seeds)}
    assert graph.blocked_arms(of, state).keys() == unfinished
    assert_reasons_hold(of, state)
    assert all(state.judgments[name].settled == state.repeats[name].done for name in of.arms)
    if not failures:
        assert state.settled == graph.count_parts(of)


def assert_reasons_hold(of: Study, state: State) -> None:
    """The reason of each blocked arm is a lost part, or an arm that is blocked itself."""
    for name, why in graph.blocked_arms(of, state).items():
        arm = of.arms[name]
        if "maps" in why:
            assert arm.targets
            assert not {graph.teacher_seed(of, arm, seed) for seed in of.seeds} <= state.maps[graph.maps_key(arm)].done
            assert arm.teacher in why
        elif "learn from" in why:
            assert arm.teacher in why
            needed = {graph.teacher_seed(of, arm, seed) for seed in of.seeds}
            assert not needed <= state.repeats[arm.teacher].done
        elif "loss to match" in why:
            assert arm.search
            assert not state.repeats[arm.search.match_loss_of or ""].done
        else:
            assert arm.search
            assert len(state.searches[name].lost) == arm.search.trials
