"""A key changes with everything that determines a result and with nothing else."""

import json
import re
from typing import Any

import pytest
from helpers.studies import parse_study
from hypothesis import given
from hypothesis import strategies as st

from tune_interpreg.study.config import Attack, Data, Evaluation, Training
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import CheckedModel, Maps, Recipe, digest

MAPS = Maps(teacher="9f", teacher_seed=0, sigma=0.15, samples=50)
RECIPE = Recipe(
    method="interpretation",
    params={"lambda": 0.07, "phi": 1.0, "norm": "batch"},
    data=Data(name="mnist", train_limit=600, validation=100, test_limit=100),
    data_fingerprint="ab",
    model="mnist_cnn",
    evaluation=Evaluation(steps=40),
    maps=MAPS,
)
ITEM = Item(arm="robust", role="repeat", recipe=RECIPE, seeds=(0, 1))

#: Another value for each field of a recipe, section by section.
OTHER: dict[str, Any] = {
    "method": "jacobian",
    "params": {"lambda": 0.08, "phi": 1.0, "norm": "batch"},
    "data": {"name": "digits", "train_limit": 500, "validation": 90, "test_limit": 90, "options": {"size": 32}},
    "data_fingerprint": "cd",
    "model": {"name": "digits_cnn", "options": {"width": 3}},
    "training": {"epochs": 2, "batch_size": 8, "lr": 0.5, "momentum": 0.1, "lr_decay": 0.7, "decay_every": 3}
    | {"schedule": "cosine", "augment": {"flip": True, "crop": 4}, "matmul": "tf32"},
    "attack": {"norm": "linf", "eps": 0.3, "steps": 3, "step_size": 0.7, "direction": "sign", "start": "ball"}
    | {"precision": "bfloat16"},
    "evaluation": {"steps": 4, "step_size": 0.2, "batch_size": 9, "adversarial_every": 1, "gradient_samples": 5}
    | {"restarts": 2, "autoattack": 100},
    "evaluation_attack": {"norm": "linf", "eps": 0.3, "steps": 3, "step_size": 0.7},
    "plugins": {"my-lab": "0.1"},
    "checked": {"model": "8e", "seed": 1, "sources": {"standard": "9f"}, "images": 50, "autoattack": 5},
    "maps": {"teacher": "8e", "teacher_seed": 1, "sigma": 0.2, "samples": 9, "permute": "fixed"}
    | {"clamp": True, "include_clean": True, "sign": "signed", "output": "probabilities"}
    | {"precision": "bfloat16"},
}
SECTIONS = {"data", "training", "attack", "evaluation", "evaluation_attack", "maps"}


def changed(**fields: Any) -> Recipe:
    return Recipe.model_validate(RECIPE.model_dump() | fields)


def variants() -> dict[str, Recipe]:
    """Return the recipe with one field changed, for every field."""
    plain = {name: changed(**{name: value}) for name, value in OTHER.items() if name not in SECTIONS}
    inner = {
        f"{section}.{name}": changed(**{section: RECIPE.model_dump()[section] | {name: value}})
        for section in SECTIONS
        for name, value in OTHER[section].items()
    }
    return plain | inner | {"maps": changed(maps=None), "params": changed(params={"lambda": 0.07, "phi": 1.0})}


def test_every_field_of_a_recipe_is_part_of_its_key() -> None:
    sections = {"data": Data, "training": Training, "attack": Attack, "evaluation": Evaluation, "maps": Maps}
    assert OTHER.keys() == Recipe.model_fields.keys()
    for section, model in sections.items():
        assert OTHER[section].keys() == model.model_fields.keys() - {"root"}
    keys = {name: recipe.key for name, recipe in variants().items()}
    assert len({*keys.values(), RECIPE.key}) == len(keys) + 1


@pytest.mark.parametrize("other", [{"model": "8f"}, {"seed": 2}, {"sources": {}}, {"images": 51}, {"autoattack": None}])
def test_every_field_of_a_checked_model_is_part_of_the_key(other: dict[str, Any]) -> None:
    """A recipe without checks has the key that it had before there were checks."""
    assert OTHER["checked"].keys() == CheckedModel.model_fields.keys()
    assert changed(checked=OTHER["checked"] | other).key != changed(checked=OTHER["checked"]).key
    assert changed(checked=None).key == RECIPE.key


@pytest.mark.parametrize(
    "other",
    [{"role": "search"}, {"seeds": (0,)}, {"seeds": (0, 2)}, {"adversarial": False}, {"recipe": changed(model="x")}],
)
def test_role_seeds_and_adversarial_validation_are_part_of_an_items_key(other: dict[str, Any]) -> None:
    assert ITEM.model_copy(update=other).key != ITEM.key


def test_arm_number_and_folder_of_the_data_are_not_part_of_a_key() -> None:
    assert ITEM.model_copy(update={"arm": "another", "number": 7}).key == ITEM.key
    assert changed(data=RECIPE.data.model_dump() | {"root": "/elsewhere"}).key == RECIPE.key


def test_a_number_with_or_without_a_point_is_the_same() -> None:
    assert changed(params={"norm": "batch", "phi": 1, "lambda": 0.07}).key == RECIPE.key
    assert changed(params={"norm": "batch", "phi": "1", "lambda": 0.07}).key != RECIPE.key


def test_the_permutation_is_part_of_the_recipes_key_and_not_of_the_raw_maps() -> None:
    permuted = MAPS.model_copy(update={"permute": "fixed"})
    assert permuted.key == MAPS.key
    assert changed(maps=permuted.model_dump()).key != RECIPE.key


@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text(max_size=5) | st.none(), max_size=6))
def test_the_order_of_a_dictionary_does_not_matter(content: dict[str, Any]) -> None:
    assert digest(content) == digest(dict(reversed(content.items())))
    assert digest(content) != digest(content | {"other": 1})
    assert re.fullmatch("[0-9a-f]{16}", digest(content))


@given(st.floats(1e-12, 1e12), st.lists(st.integers(0, 99), min_size=1, unique=True))
def test_an_item_read_back_from_json_is_the_same(strength: float, seeds: list[int]) -> None:
    recipe = changed(params={"lambda": strength, "norm": "sample"})
    item = Item(arm="a", role="search", recipe=recipe, seeds=tuple(seeds), number=3)
    copy = Item.model_validate(json.loads(json.dumps(item.model_dump(mode="json"))))
    assert copy == item
    assert (copy.key, copy.label) == (item.key, item.label)


def test_labels_are_unique_and_safe_in_a_path() -> None:
    items = [
        ITEM.model_copy(update={"role": role, "seeds": seeds, "recipe": recipe})
        for role in ("search", "repeat", "targets")
        for seeds in ((0,), (0, 1), tuple(range(100)), tuple(range(1, 101)))
        for recipe in (RECIPE, changed(model="x"))
    ]
    items.append(items[0].model_copy(update={"number": 7}))
    labels = {item.label for item in items}
    assert len(labels) == len(items)
    assert all(re.fullmatch(r"[a-z0-9-]{1,64}", label) for label in labels)


def test_an_item_finishes_a_trial_or_its_seeds() -> None:
    trial = ITEM.model_copy(update={"role": "search", "number": 7})
    assert (ITEM.parts, trial.parts) == ((0, 1), (7,))
    assert ITEM.title == "robust: repeat, seed 0, 1"
    assert trial.title == "robust: trial 7 (lambda 0.07, phi 1)"
    assert ITEM.model_copy(update={"role": "targets"}).title == "robust: target maps"


def test_a_recipe_takes_the_shared_setting_of_its_study() -> None:
    study = parse_study(
        "data: {name: mnist, root: /data}\nmodel: mnist_cnn\nattack: {eps: 0.5, steps: 4}\n"
        "evaluation: {steps: 8}\narms: {a: {method: standard}}",
    )
    recipe = Recipe.from_study(study, method="standard", data_fingerprint="ab")
    assert (recipe.data, recipe.model, recipe.attack) == (study.data, study.model, study.attack)
    assert (recipe.attack.steps, recipe.evaluation_attack.steps, recipe.evaluation_attack.eps) == (4, 8, 0.5)
