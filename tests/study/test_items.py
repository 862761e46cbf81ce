"""A key changes with everything that determines a result and with nothing else."""

import json
import re
from typing import Any, get_args

import pytest
from helpers.jobs import training_job
from helpers.studies import parse_study
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tune_interpreg.study import measures
from tune_interpreg.study.config import Attack, Data, MapSettings, Training
from tune_interpreg.study.items import Job, Judge, Maps, Train
from tune_interpreg.study.measures import ChecksMeasure, CompatMeasure, InterpretabilityMeasure, Measure, StrictMeasure
from tune_interpreg.study.recipe import Recipe, TargetMaps, TeacherModel, digest

RECIPE = Recipe(
    method="interpretation",
    params={"lambda": 0.07, "phi": 1.0, "norm": "batch"},
    data=Data(name="mnist", train_limit=600, validation=100, test_limit=100),
    data_fingerprint="ab",
    model="mnist_cnn",
    maps=TargetMaps(key="9f"),
    teacher=TeacherModel(key="9f", seed=0),
)
#: Another value for each field of a recipe, section by section.
OTHER: dict[str, Any] = {
    "method": "jacobian",
    "params": {"lambda": 0.08, "phi": 1.0, "norm": "batch"},
    "data": {"name": "digits", "train_limit": 500, "validation": 90, "test_limit": 90, "options": {"size": 32}},
    "data_fingerprint": "cd",
    "model": {"name": "digits_cnn", "options": {"width": 3}},
    "training": {"epochs": 2, "batch_size": 8, "lr": 0.5, "momentum": 0.1, "lr_decay": 0.7, "decay_every": 3}
    | {"schedule": "cosine", "augment": {"flip": True, "crop": 4}, "matmul": "tf32"}
    | {"optimizer": "adamw", "nesterov": True, "weight_decay": 0.01, "warmup_epochs": 3},
    "attack": {"norm": "linf", "eps": 0.3, "steps": 3, "step_size": 0.7, "direction": "sign", "start": "ball"}
    | {"precision": "bfloat16"},
    "plugins": {"my-lab": "0.1"},
    "train_limit": 300,
    "maps": {"key": "8e", "permute": "fixed"},
    "teacher": {"key": "8e", "seed": 1, "model": "mnist_cnn"},
}
SECTIONS = {"data", "training", "attack", "maps", "teacher"}

#: Another value for each field of a measure and of map settings, by name.
VALUES: dict[str, Any] = {
    "attack": Attack(eps=0.25),
    "restarts": 7,
    "batch_size": 8,
    "norm": "linf",
    "eps": 0.125,
    "images": 11,
    "autoattack": 5,
    "sources": {"standard": "8e"},
    "deletion": True,
    "maps": {"teacher": "8e"},
    "settings": MapSettings(samples=3),
    "sigma": 0.2,
    "samples": 9,
    "clamp": True,
    "include_clean": True,
    "sign": "signed",
    "output": "probabilities",
    "precision": "bfloat16",
}
#: A measure of each kind.
PLAIN: dict[str, Any] = {"attack": Attack(), "restarts": 1, "batch_size": 500, "norm": "l2", "eps": 1.5, "images": 100}
PLAIN |= {"autoattack": None, "sources": {}, "deletion": False}
KINDS: tuple[type[Any], ...] = get_args(get_args(Measure)[0])
MEASURES = [kind(**{name: PLAIN[name] for name in kind.model_fields if name in PLAIN}) for kind in KINDS]


def changed(**fields: Any) -> Recipe:
    return Recipe.model_validate(RECIPE.model_dump() | fields)


def judge(measure: Any, model: str = "9f", split: Any = "validation") -> Judge:
    return Judge(model=model, measure=measure, split=split)


def without_momentum(name: str, section: dict[str, Any]) -> dict[str, Any]:
    """Return a section that takes another value of ``name``: adamw refuses a momentum."""
    return {key: value for key, value in section.items() if key != "momentum" or name != "optimizer"}


def variants() -> dict[str, Recipe]:
    """Return the recipe with one field changed, for every field."""
    plain = {name: changed(**{name: value}) for name, value in OTHER.items() if name not in SECTIONS}
    inner = {
        f"{section}.{name}": changed(**{section: without_momentum(name, RECIPE.model_dump()[section]) | {name: value}})
        for section in SECTIONS
        for name, value in OTHER[section].items()
    }
    return (
        plain
        | inner
        | {
            "maps": changed(maps=None),
            "teacher": changed(teacher=None),
            "params": changed(params={"lambda": 0.07, "phi": 1.0}),
        }
    )


def assert_each_field_counts(content: BaseModel, key: Any, skipped: tuple[str, ...] = ()) -> None:
    """Assert that ``key`` of the content changes with each of its fields, to something else each time."""
    others = [
        content.model_copy(update={name: VALUES[name]}) for name in type(content).model_fields if name not in skipped
    ]
    assert len({key(content), *map(key, others)}) == len(others) + 1


def test_every_field_of_a_recipe_is_part_of_its_key() -> None:
    sections = {"data": Data, "training": Training, "attack": Attack, "maps": TargetMaps}
    sections["teacher"] = TeacherModel
    assert OTHER.keys() == Recipe.model_fields.keys()
    for section, model in sections.items():
        assert OTHER[section].keys() == model.model_fields.keys() - {"root", "settings"}  # part of the maps' key
    keys = {name: recipe.key for name, recipe in variants().items()}
    assert len({*keys.values(), RECIPE.key}) == len(keys) + 1
    trained = {Train(recipe=recipe, seed=seed).key for recipe in (RECIPE, changed(model="x")) for seed in (0, 1)}
    assert len(trained) == 4


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.kind)
def test_every_field_of_a_measure_is_part_of_a_judgments_key(measure: Any) -> None:
    assert_each_field_counts(measure, lambda other: judge(other).key, skipped=("kind",))
    assert len({judge(measure).key, judge(measure, model="8e").key, judge(measure, split="test").key}) == 3


def test_measures_of_different_kinds_have_different_keys() -> None:
    """Also if they hold the same settings."""
    assert {measure.kind for measure in MEASURES} >= {"accuracy", "strict", "compat", "autoattack", "checks"}
    assert len({judge(measure).key for measure in MEASURES}) == len(MEASURES)
    strict = judge(StrictMeasure(attack=Attack())).key
    assert judge(StrictMeasure(attack=Attack(), restarts=1)).key == strict
    assert Maps(teacher="9f", settings=MapSettings()).key != strict


def test_every_map_setting_and_the_teacher_are_part_of_the_maps_key() -> None:
    assert_each_field_counts(MapSettings(), lambda settings: Maps(teacher="9f", settings=settings).key)
    assert Maps(teacher="8e", settings=MapSettings()).key != Maps(teacher="9f", settings=MapSettings()).key


def test_the_batch_size_counts_only_where_a_result_depends_on_it() -> None:
    assert {kind for kind in KINDS if "batch_size" in kind.model_fields} == {CompatMeasure, ChecksMeasure}


def test_arm_number_and_folder_of_the_data_are_not_part_of_a_key() -> None:
    jobs = [training_job(RECIPE, "one"), training_job(RECIPE, "two", number=7)]
    assert len({job.key for job in jobs}) == 1
    assert changed(data=RECIPE.data.model_dump() | {"root": "/elsewhere"}).key == RECIPE.key


def test_nothing_of_the_evaluation_is_part_of_a_trainings_key() -> None:
    text = "arms: {standard: {method: standard}}\n"
    study = parse_study(text)
    for evaluation in ("steps: 7", "restarts: 3", "batch_size: 9", "adversarial_every: 2", "checks: {images: 5}"):
        other = parse_study(f"{text}evaluation: {{{evaluation}}}\n")
        assert Recipe.from_study(other, method="standard").key == Recipe.from_study(study, method="standard").key
        assert other.setting() == study.setting()


def test_keys_of_earlier_versions_stay_the_same() -> None:
    """Stores of format 4 are resumed: a new option at its default must not change a key."""
    settings = {"epochs": 3, "batch_size": 32, "lr": 0.02, "momentum": 0.5, "schedule": "cosine"}
    training = Training.model_validate(settings | {"augment": {"crop": 2}})
    maps, data = TargetMaps(key="9f", permute="fixed"), Data(name="mnist", train_limit=600, validation=100)
    rich = changed(data=data, training=training, attack=Attack(eps=0.5, steps=4), maps=maps, teacher=None)
    assert Train(recipe=Recipe(method="standard"), seed=0).key == "3a4dee4a6b71c9a9"
    assert Train(recipe=rich, seed=1).key == "d17e6896ceeaf7d3"
    assert Maps(teacher="9f", settings=MapSettings(sigma=0.2)).key == "511511afaddc59d8"


def test_a_number_with_or_without_a_point_is_the_same() -> None:
    assert changed(params={"norm": "batch", "phi": 1, "lambda": 0.07}).key == RECIPE.key
    assert changed(params={"norm": "batch", "phi": "1", "lambda": 0.07}).key != RECIPE.key


@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text(max_size=5) | st.none(), max_size=6))
def test_the_order_of_a_dictionary_does_not_matter(content: dict[str, Any]) -> None:
    assert digest(content) == digest(dict(reversed(content.items())))
    assert digest(content) != digest(content | {"other": 1})
    assert re.fullmatch("[0-9a-f]{16}", digest(content))


@given(st.floats(1e-12, 1e12), st.lists(st.integers(0, 99), min_size=1, unique=True), st.sampled_from(MEASURES))
def test_a_job_read_back_from_json_is_the_same(strength: float, seeds: list[int], measure: Any) -> None:
    recipe = changed(params={"lambda": strength, "norm": "sample"})
    models = tuple(Train(recipe=recipe, seed=seed) for seed in seeds)
    work = [judge(measure, model.key) for model in models]
    job = training_job(recipe, number=3, models=models, work=work)
    copy = Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json"))))
    assert copy == job
    assert (copy.key, copy.label) == (job.key, job.label)
    assert [item.key for item in copy.items] == [item.key for item in job.items]


def test_labels_are_unique_and_safe_in_a_path() -> None:
    jobs = [
        training_job(recipe, models=tuple(Train(recipe=recipe, seed=seed) for seed in seeds))
        for seeds in ((0,), (0, 1), tuple(range(100)), tuple(range(1, 101)))
        for recipe in (RECIPE, changed(model="x"))
    ]
    jobs += [training_job(RECIPE, number=0), training_job(RECIPE, number=7)]
    labels = {job.label for job in jobs}
    assert len(labels) == len(jobs)
    assert all(re.fullmatch(r"[a-z0-9-]{1,64}", label) for label in labels)
    judging = jobs[0].model_copy(update={"stage": "judgments", "trains": False})
    assert judging.label == jobs[0].label, "TensorBoard shows judgments with the training"


def test_a_job_settles_a_trial_or_its_seeds() -> None:
    trial = training_job(RECIPE, "robust", number=7)
    repeats = training_job(RECIPE, "robust", models=tuple(Train(recipe=RECIPE, seed=seed) for seed in (0, 1)))
    assert (repeats.parts, trial.parts) == ((0, 1), (7,))
    assert repeats.title == "robust: seed 0, 1"
    assert trial.title == "robust: trial 7 (lambda 0.07, phi 1)"
    (model,) = trial.models
    maps = Maps(teacher=model.key, settings=MapSettings())
    made = trial.model_copy(update={"stage": "maps", "number": None, "trains": False, "work": (maps,)})
    assert (made.title, made.key, made.items) == ("robust: target maps", maps.key, (maps,))
    assert made.model_of(maps) == model


def test_a_recipe_takes_the_shared_setting_of_its_study() -> None:
    study = parse_study(
        "data: {name: mnist, root: /data}\nmodel: mnist_cnn\nattack: {eps: 0.5, steps: 4}\n"
        "evaluation: {steps: 8}\narms: {a: {method: standard}}"
    )
    recipe = Recipe.from_study(study, method="standard", data_fingerprint="ab")
    assert (recipe.data, recipe.model, recipe.attack) == (study.data, study.model, study.attack)
    attacks = [q.measure.attack for q in measures.list_repeat_questions(study) if isinstance(q.measure, StrictMeasure)]
    assert [(attack.steps, attack.eps) for attack in attacks] == [(8, 0.5)] * 2
    assert InterpretabilityMeasure not in {type(question.measure) for question in measures.list_repeat_questions(study)}
