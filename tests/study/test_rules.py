"""Names, parameters and edges of a study: every broken rule is reported, once, at its place."""

from typing import Any

import pytest

from tune_interpreg.study.file import rules
from tune_interpreg.study.file.rules import find_problems
from tune_interpreg.study.problems import Place

LOG = {"log_uniform": [0.1, 1.0]}
STANDARD = {"method": "standard"}


def interpretation(**keys: Any) -> dict[str, Any]:
    return {"method": "interpretation", "targets": {"teacher": "standard"}, "lambda": 0.1} | keys


def jacobian(**keys: Any) -> dict[str, Any]:
    return {"method": "jacobian", "lambda_j": 0.1} | keys


def matching(reference: str) -> dict[str, Any]:
    return {"method": "jacobian", "search": {"space": {"lambda_j": LOG}, "match_loss_of": reference}}


def taught(teacher: str) -> dict[str, Any]:
    return interpretation(targets={"teacher": teacher})


def problems(**arms: Any) -> dict[Place, str]:
    """Return the problems of a study with these arms and a valid one, by place; each place has at most one."""
    findings = find_problems({"arms": {"standard": STANDARD} | arms})
    by_place = dict(findings)
    assert len(by_place) == len(findings)
    return by_place


def test_a_valid_study_has_no_problems() -> None:
    assert not problems(i=interpretation(phi=0.5, sign="signed"), j=jacobian(), k=matching("i"))


# ------------------------------------------------------------------------- names
@pytest.mark.parametrize("data", ["mnits", {"name": "mnits"}])
def test_an_unknown_name_is_reported_with_a_similar_one(data: Any) -> None:
    place = ("data", "name") if isinstance(data, dict) else ("data",)
    assert dict(find_problems({"data": data, "model": "mnist_cn", "arms": {"a": STANDARD}})) == {
        place: 'unknown dataset "mnits"; did you mean mnist?',
        ("model",): 'unknown model "mnist_cn"; did you mean mnist_cnn?',
    }
    assert "there are: adversarial, " in problems(a={"method": "zzz"})["arms", "a", "method"]


@pytest.mark.parametrize("name", ["", "../x", "a b", "a.b", "-a", "_a", "ä", "x" * 65, "a\n"])
def test_an_arms_name_must_fit_in_a_file_name(name: str) -> None:
    assert problems(**{name: STANDARD}).keys() == {("arms", name)}
    assert not problems(**{"A-b_c": STANDARD, "1": STANDARD, "x" * 64: STANDARD})


def test_options_are_those_of_the_builder() -> None:
    assert not find_problems({"model": {"name": "cifar_cnn", "fc_relu": False}, "arms": {"a": STANDARD}})
    wrong = {"name": "cifar_cnn", "fc_rleu": False, "fc_relu": "no"}
    found = dict(find_problems({"model": wrong, "data": {"train_limt": 3}, "arms": {"a": STANDARD}}))
    unknown = found.pop(("model", "fc_rleu"))
    assert unknown.startswith("unknown option; model cifar_cnn takes fc_relu")
    assert unknown.endswith(" (did you mean fc_relu?)")
    assert found == {
        ("data", "train_limt"): "unknown option; dataset digits takes none (did you mean train_limit?)",
        ("model", "fc_relu"): 'takes true or false, got "no"; write false',
    }


def test_autoattack_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    study = {"evaluation": {"attacks": [{"autoattack": 50}]}, "arms": {"a": STANDARD}}
    assert not find_problems(study)
    monkeypatch.setattr(rules, "find_spec", lambda name: None)
    ((place, message),) = find_problems(study)
    assert place == ("evaluation", "attacks", 0, "autoattack")
    assert 'pip install "tune-interpreg[autoattack]"' in message


# -------------------------------------------------------------------- parameters
def test_an_unknown_parameter_names_those_of_the_method_and_a_similar_one() -> None:
    arm = {"method": "jacobian", "search": {"space": {"lamda_j": LOG}, "maximize": "val/accuracy"}}
    assert problems(a=arm) == {
        ("arms", "a", "search", "space", "lamda_j"): (
            "unknown parameter; method jacobian takes lambda_j, norm, output, dropout (did you mean lambda_j?)"
        )
    }
    assert problems(a=STANDARD | {"phi": 1.0}).keys() == {("arms", "a", "phi")}


def test_methods_joined_by_plus_take_the_parameters_of_each() -> None:
    both = interpretation(method="adversarial + interpretation", mode="eval")
    assert not problems(a=both)
    assert problems(a=both | {"lambda_j": 1}).keys() == {("arms", "a", "lambda_j")}
    assert problems(a=both | {"method": "interpretation + interpretation"}).keys() == {("arms", "a", "method")}


@pytest.mark.parametrize(
    ("key", "hint"), [("serach", "search"), ("sigma", "targets.sigma"), ("trials", "search.trials"), ("Phi", "phi")]
)
def test_a_misplaced_or_misspelled_key_is_sent_to_its_place(key: str, hint: str) -> None:
    assert problems(a=interpretation(**{key: {"any": 1}}))["arms", "a", key].endswith(f"(did you mean {hint}?)")


def test_a_parameter_without_default_is_set_or_searched_and_not_both() -> None:
    assert "needs lambda_j" in problems(a={"method": "jacobian"})["arms", "a"]
    assert not problems(a=matching("standard"))
    both = problems(a=matching("standard") | {"lambda_j": 0.1})
    assert "search.space.lambda_j" in both["arms", "a", "lambda_j"]


@pytest.mark.parametrize(
    ("key", "span", "place"),
    [
        ("lambda", {"uniform": [-2, 1]}, ()),
        ("phi", {"choice": [0.5, "1.0"]}, ("choice", 1)),
        ("sign", {"choice": ["abs", "sgn"]}, ("choice", 1)),
        ("sign", {"uniform": [0, 1]}, ()),
    ],
)
def test_a_range_proposes_only_allowed_values(key: str, span: Any, place: Place) -> None:
    arm = interpretation(search={"space": {key: span}, "maximize": "val/accuracy"})
    if key == "lambda":
        del arm["lambda"]
    assert problems(a=arm).keys() == {("arms", "a", "search", "space", key, *place)}


def test_a_grid_takes_only_allowed_values() -> None:
    search = {"grid": {"phi": [0.5, "1.0", 2], "sign": ["abs", 3], "other": [1]}, "maximize": "val/accuracy"}
    places = {("phi", 1), ("sign", 1), ("other",)}
    assert problems(a=interpretation(search=search)).keys() == {
        ("arms", "a", "search", "grid", *place) for place in places
    }


def test_methods_and_targets_go_together() -> None:
    assert "needs a teacher" in problems(a={"method": "interpretation", "lambda": 1, "targets": {}})["arms", "a"]
    assert "needs targets" in problems(a={"method": "interpretation", "lambda": 1, "teacher": "standard"})["arms", "a"]
    assert problems(a=jacobian(targets={"teacher": "standard"})).keys() == {("arms", "a", "targets")}
    signed = {"method": "cosine", "lambda_cs": 1.0, "lambda_gm": 0.1, "targets": {"teacher": "standard"}}
    assert problems(a=signed).keys() == {("arms", "a", "targets", "sign")}
    assert not problems(a=signed | {"targets": {"teacher": "standard", "sign": "signed"}})


def test_methods_and_teachers_go_together() -> None:
    """A method that learns from a model, one that learns from maps, and one that learns from neither."""
    learner = {"method": "distill", "lambda_kd": 1.0}
    assert not problems(a=learner | {"teacher": "standard"})
    assert not problems(a=interpretation(targets={}) | {"teacher": "standard", "teachers": "per_seed"})
    assert "needs a teacher" in problems(a=learner)["arms", "a"]
    assert problems(a=learner | {"teacher": "standard", "targets": {}}).keys() == {("arms", "a", "targets")}
    assert problems(a=jacobian(teacher="standard")).keys() == {("arms", "a", "teacher")}
    assert problems(a=jacobian(teachers="per_seed")).keys() == {("arms", "a", "teachers")}
    assert problems(a=interpretation(teacher="standard")).keys() == {("arms", "a", "targets", "teacher")}
    both = {"method": "distill + interpretation", "lambda_kd": 1.0, "lambda": 0.1, "targets": {}}
    assert not problems(a=both | {"teacher": "standard"})
    for name in ("a", "zzz"):
        assert problems(a=learner | {"teacher": name}).keys() == {("arms", "a", "teacher")}


def test_parameters_may_stand_under_params_as_in_a_resolved_study() -> None:
    arm = {"method": "jacobian", "params": {"lambda_j": -1, "foo": 2}}
    assert problems(a=arm).keys() == {("arms", "a", "params", "lambda_j"), ("arms", "a", "params", "foo")}


# ------------------------------------------------------------------------- edges
def test_an_unknown_arm_is_reported_with_a_similar_one() -> None:
    assert problems(a=taught("standrad"), b=matching("zzz")) == {
        ("arms", "a", "targets", "teacher"): 'unknown arm "standrad"; did you mean standard?',
        ("arms", "b", "search", "match_loss_of"): 'unknown arm "zzz"; there are: a, b, standard',
    }
    assert not problems(a=taught("broken"), broken=None)


@pytest.mark.parametrize(
    ("arms", "cycle"),
    [
        ({"a": taught("a")}, "a → a"),
        ({"a": taught("b"), "b": taught("c"), "c": matching("a")}, "a → b → c → a"),
        ({"x": taught("a"), "a": taught("b"), "b": matching("a")}, "a → b → a"),
        ({"a": taught("standard"), "b": taught("standard"), "c": matching("a") | taught("b")}, None),
    ],
)
def test_a_cycle_is_reported_with_its_arms(arms: dict[str, Any], cycle: str | None) -> None:
    messages = [message for message in problems(**arms).values() if "waits for itself" in message]
    assert messages == ([f"waits for itself: {cycle}; drop one of these edges"] if cycle else [])


@pytest.mark.parametrize("broken", [None, 3, "text", [1], {"targets": 3, "search": [1]}, {"search": {"space": 5}}])
def test_malformed_arms_and_sections_hide_no_other_problem(broken: Any) -> None:
    arm = interpretation(**broken) if isinstance(broken, dict) else broken
    assert ("arms", "b", "targets", "teacher") in problems(a=arm, b=taught("zzz"))
    assert not find_problems({"arms": broken, "data": broken if isinstance(broken, (int, list)) else None})


def bounded(**condition: Any) -> dict[str, Any]:
    where = {"val/accuracy": condition}
    search = {"space": {"lambda_j": LOG}, "maximize": "val/adv_accuracy", "where": where}
    return {"method": "jacobian", "search": search}


def test_the_arm_of_a_bound_is_an_edge() -> None:
    place = ("arms", "a", "search", "where", "val/accuracy", "of")
    assert not problems(a=bounded(within=0.01, of="standard"), b=bounded(at_least=0.9))
    assert problems(a=bounded(within=0.01, of="standrd"))[place] == 'unknown arm "standrd"; did you mean standard?'
    assert problems(a=bounded(within=0.01, of="a"))[place].startswith("waits for itself: a → a")
    circle = problems(a=bounded(within=0.01, of="b"), b=matching("a"))
    assert [message for message in circle.values() if message.startswith("waits for itself")]


@pytest.mark.parametrize(
    ("count", "arm", "message"),
    [
        (3, {}, "takes at most 2, the number of the study's seeds, got 3"),
        (2, {}, None),
        (2, {"teacher": "standard", "teachers": "per_seed", "targets": {}}, "share one teacher"),
        (1, {"teacher": "standard", "teachers": "per_seed", "targets": {}}, None),
    ],
)
def test_the_seeds_of_a_trial_are_seeds_of_the_study_with_one_teacher(
    count: int, arm: dict[str, Any], message: str | None
) -> None:
    search = {"space": {"lambda": LOG}, "maximize": "val/adv_accuracy", "seeds": count}
    taught = {"method": "interpretation", "teacher": "standard", "targets": {}} | arm | {"search": search}
    found = dict(find_problems({"seeds": [7, 8], "arms": {"standard": STANDARD, "a": taught}}))
    assert list(found) == ([("arms", "a", "search", "seeds")] if message else [])
    assert all(message in text for text in found.values() if message)


@pytest.mark.parametrize(
    ("goal", "every", "is_right"), [("adv_accuracy", 0, False), ("adv_accuracy", 2, True), ("accuracy", 0, True)]
)
def test_a_pruner_reads_a_metric_that_epochs_measure(goal: str, every: int, is_right: bool) -> None:
    search = {"space": {"lambda_j": LOG}, "maximize": f"val/{goal}", "pruner": "hyperband"}
    raw = {"evaluation": {"adversarial_every": every}, "arms": {"a": {"method": "jacobian", "search": search}}}
    assert [place for place, _ in find_problems(raw)] == ([] if is_right else [("arms", "a", "search", "pruner")])
