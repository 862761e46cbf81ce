"""Names, parameters and edges of a study: every broken rule is found, and found once."""

from typing import Any

import pytest

from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.file import rules as checks
from tune_interpreg.study.file.rules import find_problems, suggest_sections
from tune_interpreg.study.problems import Place, suggest

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


def found(**arms: Any) -> dict[Place, str]:
    """Problems of a study with these arms and a sound one, by place; each place has one."""
    problems = find_problems({"arms": {"standard": STANDARD} | arms})
    by_place = dict(problems)
    assert len(by_place) == len(problems)
    return by_place


def test_a_sound_study_has_no_problems() -> None:
    assert not found(i=interpretation(phi=0.5, sign="signed"), j=jacobian(), k=matching("i"))


# ------------------------------------------------------------------------- names
@pytest.mark.parametrize("data", ["mnits", {"name": "mnits"}])
def test_unknown_data_sets_and_models_name_the_near_one(data: Any) -> None:
    place = ("data", "name") if isinstance(data, dict) else ("data",)
    problems = dict(find_problems({"data": data, "model": "mnist_cn", "arms": {"a": STANDARD}}))
    assert problems == {
        place: 'unknown dataset "mnits"; did you mean mnist?',
        ("model",): 'unknown model "mnist_cn"; did you mean mnist_cnn?',
    }


def test_unknown_names_without_a_near_one_list_all() -> None:
    assert suggest("zzz", {"b", "a"}) == "there are: a, b"
    assert suggest("Standard", ["standard"]) == "did you mean standard?"
    message = found(a={"method": "zzz"})["arms", "a", "method"]
    assert message.startswith('unknown method "zzz"; there are: adversarial, ')


@pytest.mark.parametrize("name", ["", "../x", "a b", "a.b", "-a", "_a", "ä", "x" * 65, "a\n"])
def test_an_arms_name_can_name_a_file(name: str) -> None:
    assert "letters, digits, _ and -" in found(**{name: STANDARD})["arms", name]


@pytest.mark.parametrize("name", ["a", "1", "A-b_c", "x" * 64])
def test_plain_names_of_arms_are_fine(name: str) -> None:
    assert not found(**{name: STANDARD})


# -------------------------------------------------------------------- parameters
def test_an_unknown_parameter_names_those_of_the_method_and_the_near_one() -> None:
    arm = {"method": "jacobian", "search": {"space": {"lamda_j": LOG}, "maximize": "val/accuracy"}}
    assert found(a=arm) == {
        ("arms", "a", "search", "space", "lamda_j"): (
            "unknown parameter; method jacobian takes lambda_j, norm, output, dropout (did you mean lambda_j?)"
        )
    }


def test_methods_joined_by_a_plus_take_the_parameters_of_each() -> None:
    both = interpretation(method="adversarial + interpretation", mode="eval")
    assert not found(a=both)
    unknown = found(a=both | {"lambda_j": 1})["arms", "a", "lambda_j"]
    assert unknown.startswith("unknown parameter; method adversarial + interpretation takes ")
    misspelt = found(a=both | {"method": "adversarial+interpretatoin"})
    assert misspelt == {("arms", "a", "method"): 'unknown method "interpretatoin"; did you mean interpretation?'}
    (twice,) = found(a=both | {"method": "interpretation + interpretation"}).items()
    assert twice[0] == ("arms", "a", "method")


def test_a_method_of_signed_gradients_asks_for_signed_maps() -> None:
    arm = {"method": "cosine", "lambda_cs": 1.0, "lambda_gm": 0.1, "targets": {"teacher": "standard"}}
    rule = "method cosine compares signed gradients; give targets.sign: signed"
    assert found(a=arm) == {("arms", "a", "targets", "sign"): rule}
    assert not found(a=arm | {"targets": {"teacher": "standard", "sign": "signed"}})


# ----------------------------------------------------------------------- options
def test_options_are_those_of_the_function_that_builds_it() -> None:
    assert not find_problems({"model": {"name": "cifar_cnn", "fc_relu": False}, "arms": {"a": STANDARD}})
    wrong = {"name": "cifar_cnn", "fc_rleu": False, "fc_relu": "no"}
    problems = find_problems({"model": wrong, "data": {"train_limt": 3}, "arms": {"a": STANDARD}})
    assert dict(problems) == {
        ("data", "train_limt"): "unknown option; dataset digits takes no options (did you mean train_limit?)",
        ("model", "fc_rleu"): "unknown option; model cifar_cnn takes fc_relu (did you mean fc_relu?)",
        ("model", "fc_relu"): 'takes true or false, got "no"',
    }


def test_autoattack_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    study = {"evaluation": {"autoattack": 50}, "arms": {"a": STANDARD}}
    assert not find_problems(study)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    ((place, said),) = find_problems(study)
    assert place == ("evaluation", "autoattack")
    assert 'pip install "tune-interpreg[autoattack]"' in said


# ------------------------------------------------------------------ parameters
def test_phi_is_no_parameter_of_methods_without_targets() -> None:
    message = found(a=jacobian(phi=1.0))["arms", "a", "phi"]
    assert message == "unknown parameter; method jacobian takes lambda_j, norm, output, dropout"
    assert found(a=STANDARD | {"phi": 1.0})["arms", "a", "phi"].endswith("method standard takes no parameters")


@pytest.mark.parametrize(
    ("key", "hint"), [("serach", "search"), ("sigma", "targets.sigma"), ("trials", "search.trials"), ("Phi", "phi")]
)
def test_a_key_in_the_wrong_place_or_spelling_is_sent_to_its_place(key: str, hint: str) -> None:
    assert found(a=interpretation(**{key: {"any": 1}}))["arms", "a", key].endswith(f"(did you mean {hint}?)")


def test_keys_of_sections_are_found_from_beside_the_section() -> None:
    assert suggest_sections("epochs", Study) == ["training.epochs"]
    assert suggest_sections("steps", Study) == ["attack.steps", "evaluation.steps"]
    assert suggest_sections("teacher", Arm) == ["targets.teacher"]
    assert not suggest_sections("method", Study)  # an arm's name stands between


@pytest.mark.parametrize("value", [-1, "1", True, None, [1], {"log_uniform": [1, 2]}, float("nan")])
def test_a_parameters_value_is_checked(value: Any) -> None:
    assert "takes a" in found(a=jacobian(lambda_j=value))["arms", "a", "lambda_j"]


def test_a_parameter_without_default_is_given_or_searched() -> None:
    needs = "method jacobian needs lambda_j: give a value, or search it (strength λ_J of the penalty)"
    assert found(a={"method": "jacobian"}) == {("arms", "a"): needs}
    assert not found(a=matching("standard"))


def test_a_parameter_is_not_both_given_and_searched() -> None:
    both = matching("standard") | {"lambda_j": 0.1}
    assert found(a=both)["arms", "a", "lambda_j"] == "is searched too; drop it here, or drop search.space.lambda_j"


@pytest.mark.parametrize(
    ("key", "span", "said"),
    [
        ("lambda", {"uniform": [-2, 1]}, "of at least 0, got -2"),
        ("phi", {"choice": [0.5, "1.0"]}, 'takes a number, got "1.0"'),
        ("sign", {"choice": ["abs", "sgn"]}, 'takes one of abs, signed, got "sgn"'),
        ("sign", {"uniform": [0, 1]}, "takes one of abs, signed; search it by choice: [abs, signed]"),
    ],
)
def test_a_range_proposes_only_what_its_parameter_takes(key: str, span: Any, said: str) -> None:
    arm = interpretation(search={"space": {key: span}, "maximize": "val/accuracy"})
    arm.pop(key, None)
    assert said in found(a=arm | ({} if key == "lambda" else {"lambda": 0.1}))["arms", "a", "search", "space", key]


def test_a_whole_number_is_searched_by_choice() -> None:
    search = {"space": {"projections": {"uniform": [1, 4]}}, "maximize": "val/accuracy"}
    problems = found(a={"method": "jacobian_projections", "lambda_j": 0.1, "search": search})
    assert set(problems.values()) == {"takes whole numbers; search it by choice: [1, 2, 4]"}


def test_methods_and_targets_go_together() -> None:
    assert found(a={"method": "interpretation", "lambda": 1}) == {
        ("arms", "a"): "method interpretation needs targets: {teacher: ARM}; add them"
    }
    told = found(a=jacobian(targets={"teacher": "standard"}))
    assert told["arms", "a", "targets"] == "method jacobian takes no targets; drop them, or name another method"


def test_parameters_may_stand_under_params_as_a_written_study_has_them() -> None:
    arm = {"method": "jacobian", "params": {"lambda_j": -1, "foo": 2}}
    assert set(found(a=arm)) == {("arms", "a", "params", "lambda_j"), ("arms", "a", "params", "foo")}
    assert not found(a={"method": "jacobian", "params": {"lambda_j": 1}})


# ------------------------------------------------------------------------- edges
def test_unknown_arms_name_the_near_one() -> None:
    problems = found(a=taught("standrad"), b=matching("zzz"))
    assert problems == {
        ("arms", "a", "targets", "teacher"): 'unknown arm "standrad"; did you mean standard?',
        ("arms", "b", "search", "match_loss_of"): 'unknown arm "zzz"; there are: a, b, standard',
    }


def test_an_arm_that_cannot_be_read_is_still_known_by_name() -> None:
    assert not found(a=taught("broken"), broken=None)


@pytest.mark.parametrize(
    ("arms", "cycles"),
    [
        ({"a": taught("a")}, ["a → a"]),
        ({"a": taught("b"), "b": matching("a")}, ["a → b → a"]),
        ({"a": taught("b"), "b": taught("c"), "c": matching("a")}, ["a → b → c → a"]),
        ({"x": taught("a"), "a": taught("b"), "b": matching("a")}, ["a → b → a"]),
        ({"a": taught("a"), "b": taught("b")}, ["a → a", "b → b"]),
        (
            {"a": matching("c") | taught("b"), "b": matching("a"), "c": matching("a")},
            ["a → b → a", "a → c → a"],
        ),
        ({"a": taught("standard"), "b": taught("standard"), "c": matching("a") | taught("b")}, []),
    ],
)
def test_each_cycle_is_told_once_with_its_arms(arms: dict[str, Any], cycles: list[str]) -> None:
    told = [message for message in found(**arms).values() if "waits for itself" in message]
    assert sorted(told) == [f"waits for itself: {cycle}; drop one of these edges" for cycle in cycles]


@pytest.mark.parametrize("broken", [None, 3, "text", [1], {"targets": 3, "search": [1]}, {"search": {"space": 5}}])
def test_malformed_arms_and_sections_stop_no_check(broken: Any) -> None:
    arm = interpretation(**broken) if isinstance(broken, dict) else broken
    assert found(a=arm, b=taught("zzz"))["arms", "b", "targets", "teacher"].startswith("unknown arm")
    assert not find_problems({"arms": broken, "data": broken if isinstance(broken, (int, list)) else None})
