"""Which records count for a study as it is now: after changes of the study, and for driver, status and tables alike."""

from helpers.closed_form import ARMS, drain, losing, study
from helpers.ledgers import STANDARD, STUDY, accuracies, current, flat, make_maps, record, train
from helpers.observed import run_status

from analysis.results import rows
from analysis.results.results import Results
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.status.observer import Observer
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import MapSettings, Study
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.recipe import TargetMaps

METRIC = "test/accuracy"
FAST = {"method": "fast_adversarial"}
SEARCH = {"space": {"lambda_j": {"log_uniform": [0.001, 1]}}, "match_loss_of": "interp_robust", "trials": 4}


def changed(**arms):
    """The study with other arms in place of those of the same names."""
    return Study.model_validate(STUDY.model_dump() | {"arms": STUDY.model_dump()["arms"] | arms})


def accuracy(records, arm, of=STUDY, choices=None):
    """Return seed → accuracy, of the repeats in the tables."""
    return Results(of, tuple(flat(records)), choices or {}).values(arm, METRIC)


def jacobian(params, value, day):
    return [record(train("jacobian", seed, params), accuracies(value), day=day) for seed in range(5)]


def trial(number, params, day=1, state="done", error=None, seed=0):
    metrics = {"train/loss": 1.0} if state == "done" else None
    return record(train("jacobian", seed, params, number=number), metrics, state=state, day=day, error=error)


# ----------------------------------------------------------------------------- teachers
TEACHERS = [record(train("adversarial", seed), accuracies(0.9)) for seed in range(3)]


def pupil(seed, teacher, value, day, state="done"):
    params = {"lambda": 0.1, "phi": 1.0}
    maps = TargetMaps(key=make_maps(train("adversarial", teacher), MapSettings()).key)
    result = {"metrics": accuracies(value)} if state == "done" else {"error": "boom"}
    return record(train("interp_robust", seed, params, maps=maps), state=state, day=day, **result)


def taught(teachers):
    arm = {"method": "interpretation", "targets": {"teacher": "adversarial", "teachers": teachers}, "phi": 1.0}
    search = {"space": {"lambda": {"log_uniform": [0.001, 1]}}, "maximize": "val/adv_accuracy"}
    return changed(interp_robust=arm | {"search": search}).model_copy(update={"seeds": (0, 1, 2)})


SHARED = [pupil(seed, 0, 0.1, day=1) for seed in range(3)]
PER_SEED = [pupil(1, 1, 0.9, day=2), pupil(2, 2, 0.9, day=2, state="failed")]


def test_repeats_with_the_teachers_wrong_seed_do_not_count():
    ledger = [*TEACHERS, *SHARED, *PER_SEED]
    assert accuracy(ledger, "interp_robust", taught("per_seed")) == {0: 0.1, 1: 0.9}
    missing = [seed for seed in rows.find_missing(current(ledger, taught("per_seed"))) if seed.arm == "interp_robust"]
    assert [(seed.seed, seed.state, seed.error) for seed in missing] == [(2, "failed", "boom")]
    assert accuracy(ledger, "interp_robust", taught("shared")) == {0: 0.1, 1: 0.1, 2: 0.1}


def test_repeats_of_a_former_teacher_do_not_count():
    assert accuracy([*TEACHERS[1:], *SHARED], "interp_robust", taught("shared")) == {}


# ------------------------------------------------------------------- changed, and back
def test_a_parameter_back_at_its_default_brings_its_repeats_back(tmp_path):
    """The stored study has its methods' defaults, so neither tables nor `status` need the methods' code."""
    store, arm = Store(tmp_path / "store"), {"method": "jacobian", "lambda_j": 0.1}
    ledger = []
    for day, options in enumerate(({}, {"norm": "sample"}), start=1):
        params = resolve_study(changed(jacobian=arm | options)).arms["jacobian"].params
        ledger += jacobian(params, 0.9 / day, day)
    store.save_study(changed(jacobian=arm))
    assert accuracy(ledger, "jacobian", store.load_study()) == dict.fromkeys(range(5), 0.9)
    repeats = Current(store.load_study(), flat(ledger)).repeats["jacobian"]
    assert [repeats[seed]["key"] for seed in range(5)] == [repeat[0]["key"] for repeat in ledger[:5]]
    store.save_study(changed(jacobian=arm | {"norm": "sample"}))
    assert accuracy(ledger, "jacobian", store.load_study()) == dict.fromkeys(range(5), 0.45)


def test_tables_show_the_repeats_of_the_choice_and_without_one_the_latest():
    ledger = [*jacobian({"lambda_j": 0.1}, 0.9, day=1), *jacobian({"lambda_j": 0.2}, 0.1, day=2)]
    choices = {"jacobian": {"params": {"lambda_j": 0.1}}}
    assert accuracy(ledger, "jacobian", choices=choices) == dict.fromkeys(range(5), 0.9)
    assert accuracy(ledger, "jacobian") == dict.fromkeys(range(5), 0.1)


def test_neither_repeats_nor_choices_of_another_space_count():
    ledger, choices = jacobian({"lambda_j": 0.01}, 0.9, day=1), {"jacobian": {"params": {"lambda_j": 0.01}}}
    space = {"lambda_j": {"log_uniform": [0.1, 1]}}
    maximizing = changed(jacobian={"method": "jacobian", "search": {"space": space, "maximize": "val/accuracy"}})
    assert accuracy(ledger, "jacobian", maximizing) == {}
    assert current(ledger, maximizing, choices).choices == {}
    matching = changed(jacobian={"method": "jacobian", "search": SEARCH | {"space": space}})
    near = {"jacobian": {"params": {"lambda_j": 0.05}}}
    assert current([], matching, near).choices == near, "a match may widen its range by half its logarithmic length"
    assert current([], matching, choices).choices == {}


# ---------------------------------------------------------------------------- searches
def test_trials_that_the_search_could_not_propose_do_not_count_and_a_number_counts_once():
    ledger = [
        *(trial(number, {"lambda_j": (number + 1) / 8}) for number in range(6)),
        trial(0, {"lambda_j": 0.5}, day=2),
        trial(1, {"lambda_g": 0.5}, day=2),
        trial(2, {"lambda_j": 0.75}, day=2, seed=7),
        trial(3, {"lambda_j": 99.0}, day=2),
    ]
    trials = current(ledger).list_trials("jacobian")
    assert [trial["recipe"]["params"] for trial in trials] == [{"lambda_j": x} for x in (0.5, 0.25, 0.375, 0.5)]


def test_trials_with_another_fixed_parameter_do_not_count():
    ledger = [trial(0, {"lambda_j": 0.1, "norm": "batch"})]
    arms = {norm: {"method": "jacobian", "norm": norm, "search": SEARCH} for norm in ("batch", "sample")}
    assert len(current(ledger, changed(jacobian=arms["batch"])).trials["jacobian"]) == 1
    assert current(ledger, changed(jacobian=arms["sample"])).trials["jacobian"] == {}


def test_a_training_with_a_parameter_that_the_arm_no_longer_sets_does_not_count():
    """An implicit parameter, which is in a recipe only if the arm sets it."""
    noisy = record(train("fast", 0, {"noise": 2.0}, of=changed(fast=FAST | {"noise": 2.0})), accuracies(0.9))
    assert accuracy([noisy], "fast", changed(fast=FAST | {"noise": 2.0})) == {0: 0.9}
    assert accuracy([noisy], "fast", changed(fast=FAST)) == {}


def test_the_number_of_a_trial_gives_its_point_of_a_grid():
    grid = {"grid": {"lambda_j": [0.1, 0.2]}, "maximize": "val/accuracy"}
    ledger = [trial(0, {"lambda_j": 0.2}, state="failed"), trial(1, {"lambda_j": 0.2}, state="failed")]
    trials = current(ledger, changed(jacobian={"method": "jacobian", "search": grid})).list_trials("jacobian")
    assert [trial["number"] for trial in trials] == [1]


def test_failures_that_no_longer_belong_to_the_study_are_no_troubles():
    lost = [trial(number, {"lambda_j": 0.1}, state="failed", error="boom") for number in (0, 9)]
    maps = [
        record(make_maps(train("adversarial", seed), MapSettings()), state="failed", error="no room") for seed in (0, 1)
    ]
    assert rows.list_troubles(current([*TEACHERS, *lost, *maps], taught("shared"))) == [
        "adversarial: 1 set of maps failed: no room",
        "jacobian: 1 trial failed: boom",
    ]


def test_a_trial_with_the_chosen_parameters_is_the_repeat_of_its_seed():
    """Also for tables without a choice, if the other repeats have its recipe."""
    params = {"lambda_j": 0.1}
    shared = record(train("jacobian", 0, params, number=2), accuracies(0.5) | {"train/loss": 1.0})
    ledger = [shared, *jacobian(params, 0.9, day=1)[1:], trial(0, {"lambda_j": 0.2}, day=2)]
    expected = {0: 0.5} | dict.fromkeys(range(1, 5), 0.9)
    assert accuracy(ledger, "jacobian", choices={"jacobian": {"params": params}}) == expected
    assert accuracy(ledger, "jacobian") == expected
    assert list(current(ledger).trials["jacobian"]) == [0, 2]
    assert current(ledger).outdated == {}


def test_a_judgment_counts_if_the_study_asks_for_it_now():
    """The model stays: another attack leaves its accuracy, and its adversarial accuracies are missing until judged."""
    evaluation = STUDY.evaluation.model_copy(update={"restarts": 3})
    stronger = STUDY.model_copy(update={"evaluation": evaluation})
    values = Results(stronger, tuple(flat(STANDARD)))
    assert values.values("standard", METRIC).keys() == set(range(5))
    assert values.values("standard", "test/adv_accuracy_strict") == {}
    assert [gap for gap in values.missing if gap.arm == "standard"] == []


# ---------------------------------------------------------- driver, status and tables agree
def counts(of, store):
    """Return arm → (trials, done seeds, lost seeds), as driver, status and tables see them."""
    state, table = Dispatcher(of, store, "f").state, Results.from_store(store).current
    stages = {arm.name: {stage.name: stage for stage in arm.stages} for arm in Observer(store).read_status().arms}
    for name in of.arms:
        trials, repeats = state.searches[name], state.repeats[name]
        driver = len(trials.settled), len(repeats.done), len(repeats.lost)
        search, repeat = stages[name].get("search"), stages[name]["repeats"]
        yield (
            driver,
            (search.settled if search else 0, repeat.done, repeat.lost),
            (
                len(table.trials[name]),
                len(table.state.repeats[name].done),
                len(table.state.repeats[name].lost),
            ),
        )


def test_driver_status_and_tables_count_the_same_records(tmp_path):
    """Over a longer search, another space, another parameter and fewer seeds, in one store."""
    store = Store(tmp_path / "store")
    for of in (
        study(),
        study(robust=ARMS["robust"].replace("trials: 6", "trials: 8")),
        study(robust=ARMS["robust"].replace("[0.05, 0.2]", "[0.08, 0.2]")),
        study(permuted=ARMS["permuted"].replace("phi: 1.0", "phi: 0.5")),
        study(seeds="[1]"),
        study(),
    ):
        drain(of, store)
        store.save_study(of)
        for driver, status, tables in counts(of, store):
            assert driver == status == tables
        assert set(Results.from_store(store).current.choices) == {name for name, arm in of.arms.items() if arm.search}


def test_a_seed_that_diverged_next_to_others_is_lost_for_driver_status_and_tables(tmp_path):
    """It is not trained again and not checked, so `status --watch` ends."""
    of, store = study("standard", "adversarial", gpus=1, checks="{}"), Store(tmp_path / "store")
    ran = drain(of, store, losing(1))
    store.save_study(of)
    assert sorted((job.stage, job.seeds) for job in ran) == [("judgments", (0,))] * 2 + [("repeats", (0, 1))] * 2
    assert drain(of, store) == []
    assert all(views == ((0, 1, 1),) * 3 for views in counts(of, store))
    assert Results.from_store(store).values("standard", "train/loss").keys() == {0}
    assert [(gap.seed, gap.state) for gap in rows.find_missing(Results.from_store(store).current)] == [
        (1, "diverged")
    ] * 2
    status = Observer(store).read_status()
    assert (status.state, status.settled, status.total) == ("finished", 6, 6)
    shown = run_status(str(store.path), "--watch", "--every", "0.1")
    assert (shown.exit_code, shown.stdout.count("6 of 6 parts settled")) == (0, 1)
