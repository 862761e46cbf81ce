"""Sections within an arm: keys that replace the study's, checked as a whole section, at their place."""

from typing import Any

import pytest
from helpers.studies import list_problems, parse_study
from pydantic import ValidationError

from tune_interpreg.study.config import Arm, Attack, Model, Study, Training
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.setting import arm_setting, list_overrides, list_settings, read_params

HEAD = """
model: {name: cifar_cnn, fc_relu: false}
training: {epochs: 3, lr: 0.05, momentum: 0.5, nesterov: true}
attack: {norm: linf, eps: 0.1, steps: 4}
arms:
  plain: {method: standard}
"""


def study(arm: str) -> Study:
    return parse_study(f"{HEAD}  a: {{method: adversarial, {arm}}}\n")


def problems(arm: str, head: str = HEAD) -> list[str]:
    return list_problems(f"{head}  a: {{method: adversarial, {arm}}}\n")


def test_an_arm_replaces_single_keys() -> None:
    of = study("training: {lr: 0.1}, attack: {eps: 0.2}, data: {train_limit: 9}")
    setting = arm_setting(of, "a")
    assert setting.training == Training(epochs=3, lr=0.1, momentum=0.5, nesterov=True)
    assert setting.attack == Attack(norm="linf", eps=0.2, steps=4)
    assert (setting.model, setting.train_limit) == (of.model, 9)
    assert arm_setting(of, "plain") == (of.model, of.training, of.attack, None)
    assert of.evaluation_attack.eps == 0.1, "all models are judged by the study's attack"
    assert list_overrides(of, "a") == {"training.lr": 0.1, "attack.eps": 0.2, "data.train_limit": 9}
    assert list_overrides(of, "plain") == {}
    assert of.setting() == study("training: {lr: 0.2}").setting()


def test_options_of_the_network_are_replaced_and_another_network_has_its_own() -> None:
    assert study("model: {activation: softplus}").arms["a"].model == Model(
        name="cifar_cnn", options={"fc_relu": False, "activation": "softplus"}
    )
    assert study("model: mnist_cnn").arms["a"].model == Model(name="mnist_cnn")
    assert list_overrides(study("model: mnist_cnn"), "a") == {"model.name": "mnist_cnn"}


def test_another_norm_takes_no_step_of_the_study() -> None:
    """A length under l∞ is none under l2."""
    of = parse_study(
        f"{HEAD.replace('steps: 4', 'steps: 4, step_size: 0.05')}  a: {{method: adversarial, ATTACK}}\n".replace(
            "ATTACK", "attack: {norm: l2, eps: 1.0}"
        )
    )
    assert arm_setting(of, "a").attack == Attack(norm="l2", eps=1.0, steps=4)
    assert of.attack.step_size == 0.05


def test_another_optimizer_takes_no_momentum_of_the_study() -> None:
    assert study("training: {optimizer: adamw, lr: 0.001}").arms["a"].training == Training(
        epochs=3, lr=0.001, optimizer="adamw"
    )


def test_a_stored_study_is_the_same_study() -> None:
    """Its arms hold whole sections."""
    of = study("training: {optimizer: adamw}, model: {activation: softplus}, attack: {eps: 0.2}")
    stored = Study.model_validate(resolve_study(of).model_dump(mode="json"))
    assert arm_setting(stored, "a") == arm_setting(of, "a")
    assert list_overrides(stored, "a") == list_overrides(of, "a")


def test_a_study_in_python_is_completed_too() -> None:
    of = Study(training={"lr": 0.5, "epochs": 2}, arms={"a": {"method": "standard", "training": {"lr": 0.25}}})
    assert of.arms["a"].training == Training(lr=0.25, epochs=2)
    whole = Arm(method="standard", training=Training(epochs=7))
    assert Study(training=Training(lr=0.5), arms={"a": whole}).arms["a"].training == Training(epochs=7)
    with pytest.raises(ValidationError):
        Study(training={"epochs": 2}, arms={"a": {"method": "standard", "training": {"warmup_epochs": 2}}})


@pytest.mark.parametrize(
    ("arm", "place", "words"),
    [
        ("training: {lr: -1}", "arms.a.training.lr", "takes a number above 0, got -1"),
        ("training: {learning_rate: 1}", "arms.a.training.learning_rate", "unknown key"),
        ("training: {momentum: 0}", "arms.a.training", "nesterov needs a momentum above 0"),
        ("training: 3", "arms.a.training", "takes a mapping"),
        ("attack: {eps: 0}", "arms.a.attack.eps", "takes a number above 0"),
        ("attack: {norm: l2}", "arms.a.attack", "needs eps, because attack.eps is a radius under linf"),
        ("model: {width: 3}", "arms.a.model.width", "unknown option; model cifar_cnn takes"),
        ("model: mnist_cn", "arms.a.model", "did you mean mnist_cnn?"),
        ("data: {validation: 9}", "arms.a.data", "judged on the same images"),
        ("data: {train_limit: 0}", "arms.a.data.train_limit", "at least 1"),
    ],
)
def test_a_mistake_is_reported_once_at_its_place(arm: str, place: str, words: str) -> None:
    (problem,) = problems(arm)
    assert problem.startswith(f"study.yaml:7: {place}: ")
    assert words in problem


def test_a_mistake_in_the_studys_section_is_not_repeated_for_its_arms() -> None:
    head = HEAD.replace("lr: 0.05", "lr: -5").replace("eps: 0.1", "epss: 0.1").replace("fc_relu", "fc_rleu")
    found = problems("training: {epochs: 2}, attack: {steps: 2}, model: {activation: softplus}", head)
    assert [problem.split(":")[2].strip() for problem in found] == ["model.fc_rleu", "training.lr", "attack.epss"]


def test_settings_of_a_recipe_of_an_earlier_version_have_the_defaults() -> None:
    sections: dict[str, Any] = {
        "model": {"name": "m", "options": {"width": 2}},
        "training": {"lr": 0.1},
        "attack": {"eps": 1.0},
    }
    settings = list_settings(sections)
    assert settings["model.width"] == 2
    assert (settings["training.lr"], settings["training.weight_decay"]) == (0.1, 0.0)
    assert settings["data.train_limit"] is None
    assert read_params(sections | {"params": {"phi": 1.0}}, ["phi", "training.lr", "model.width", "model.depth"]) == {
        "phi": 1.0,
        "training.lr": 0.1,
        "model.width": 2,
    }
