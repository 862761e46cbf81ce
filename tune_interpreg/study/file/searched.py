"""Rules of the settings that a search varies, named with a dot: training.lr, attack.eps, model.OPTION.

Every end of a range and every choice must be a value that its section takes, also together with the other searched
settings, because a search may propose any of them.
"""

import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from tune_interpreg import registry
from tune_interpreg.study.config import ArmData, Attack, MapSettings, Model, Training
from tune_interpreg.study.fields import format_value
from tune_interpreg.study.file.messages import describe_error, section_class
from tune_interpreg.study.file.options import Option, list_options
from tune_interpreg.study.overrides import override
from tune_interpreg.study.problems import Finding, Place
from tune_interpreg.study.space import Range, widest_bounds

#: Sections with searchable keys that are fields of a class. Those of ``model`` are the options of its builder.
FIELDS: dict[str, type[BaseModel]] = {
    "training": Training,
    "attack": Attack,
    "data": ArmData,
    "targets": MapSettings,
}

#: Combinations of searched settings that are checked, at most.
COMBINATIONS = 10_000


def find_setting_problems(
    study: Mapping[str, Any], place: Place, written: Mapping[str, Any], arm: Mapping[str, Any]
) -> Iterator[Finding]:
    """Find problems of the searched settings of an arm.

    Args:
        study: the content of a study file. written: that of one of its arms. arm: the same with whole sections.
    """
    search = arm.get("search")
    search = search if isinstance(search, Mapping) else {}
    is_match = any(search.get(key) is not None for key in ("match", "match_loss_of"))
    values: dict[str, list[Any]] = {}
    for key, at, span in _list_ranges(search):
        if "." not in key:
            continue
        at, options = (*place, "search", *at), _list_options(study, arm)
        problem = _find_name_problem(key, arm, options)
        if problem:
            yield at, problem
            continue
        section, _, name = key.partition(".")
        if _is_written(study, written, section, name):
            yield (*place, section, name), f"is searched too; drop it here, or drop {'.'.join(map(str, at[2:]))}"
        tested = list(_list_values(at, span))
        if is_match and span.log_uniform:
            tested += [(at, bound) for bound in widest_bounds(span.log_uniform)]
        problems: dict[Place, str] = {}
        for where, value in tested:
            problem = _find_value_problem(study, arm, key, value, options)
            if problem and where not in problems:
                is_widened = is_match and bool(span.bounds) and value not in (span.bounds or ())
                problems[where] = problem + (f", which a match of {key} may widen its range to" if is_widened else "")
        yield from problems.items()
        if not problems:
            values[key] = [value for _, value in tested]
    yield from _check_fidelity(study, place, arm, search, values)
    yield from _check_together(study, place, arm, values)


def _is_written(study: Mapping[str, Any], arm: Mapping[str, Any], section: str, name: str) -> bool:
    """Return whether an arm gives a key another value than it would have without. A stored study has whole sections."""
    inner = arm.get(section)
    if not isinstance(inner, Mapping) or name not in inner or section not in FIELDS:
        return False
    base = study.get(section) if section in ("training", "attack") else None
    shared = (
        base.get(name) if isinstance(base, Mapping) and name in base else FIELDS[section].model_fields[name].default
    )
    return bool(inner[name] != shared)


def _check_fidelity(
    study: Mapping[str, Any], place: Place, arm: Mapping[str, Any], search: Mapping[str, Any], values: dict[str, Any]
) -> Iterator[Finding]:
    """Check that trials train less than the repeats, and add their epochs to the searched values."""
    training = override(arm.get("training") or study.get("training"), {})
    data = override(study.get("data"), {})
    own_data = override(arm.get("data"), {})
    epochs, limit = (section.get(key) for section, key in ((training, "epochs"), (own_data, "train_limit")))
    whole = {
        "epochs": Training().epochs if epochs is None else epochs,
        "train_limit": data.get("train_limit") if limit is None else limit,
    }
    for key, largest in whole.items():
        value = search.get(key)
        if isinstance(value, int) and isinstance(largest, int) and value >= largest:
            rule = f"trials take fewer than the {largest} of the repeats"
            yield (*place, "search", key), f"{rule}, got {value}; lower it, or drop it"
        elif isinstance(value, int) and key == "epochs":
            values["training.epochs"] = [value]


def _list_ranges(search: Mapping[str, Any]) -> Iterator[tuple[str, Place, Range]]:
    """Yield name, place in the search and range of each parameter. Ranges of a wrong form are reported elsewhere."""
    for kind in ("space", "grid"):
        spans = search.get(kind)
        for key, span in spans.items() if isinstance(spans, Mapping) else ():
            try:
                yield key, (kind, key), Range.model_validate({"choice": span} if kind == "grid" else span)
            except ValidationError:
                continue


def _list_values(place: Place, span: Range) -> Iterator[tuple[Place, Any]]:
    """Yield the extremes of a range, each with its place."""
    if span.bounds:
        yield from ((place, bound) for bound in span.bounds)
    for index, value in enumerate(span.choice or ()):
        yield ((*place, index) if "grid" in place else (*place, "choice", index)), value


def _list_options(study: Mapping[str, Any], arm: Mapping[str, Any]) -> Mapping[str, Option]:
    """Return the options of the arm's network; none without a network, which is reported with its section."""
    model = arm.get("model") or study.get("model")
    settings = model if isinstance(model, Mapping) else {"name": model or Model().name}
    try:
        return list_options(registry.resolve("models", settings.get("name", Model().name)))
    except (registry.UnknownName, registry.BrokenPlugin, TypeError):
        return {}


def _find_name_problem(key: str, arm: Mapping[str, Any], options: Mapping[str, Option]) -> str | None:
    names = [f"model.{option}" for option in options]
    for section, kind in FIELDS.items():
        fields = kind.model_fields.items()
        names += [f"{section}.{name}" for name, field in fields if not section_class(field.annotation)]
    if key not in names:
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
        return f"unknown setting; {hint}"
    if key == "attack.norm":
        return "is not searched, because a radius belongs to its norm; write an arm for each norm"
    if key.startswith("targets.") and arm.get("targets") is None:
        return "the arm has no targets; add targets, or drop it"
    return None


def _find_value_problem(
    study: Mapping[str, Any], arm: Mapping[str, Any], key: str, value: Any, options: Mapping[str, Option]
) -> str | None:
    """Return why a setting refuses a value by itself, or None."""
    section, _, name = key.partition(".")
    if section == "model":
        return options[name].find_problem(value)
    base = {} if section in ("data", "targets") else arm.get(section) or study.get(section)
    for error in _list_errors(FIELDS[section], override(base, {name: value})):
        if error["loc"][:1] == (name,):
            return describe_error(error | {"loc": (section, *error["loc"])})
    return None


def _check_together(
    study: Mapping[str, Any], place: Place, arm: Mapping[str, Any], values: Mapping[str, list[Any]]
) -> Iterator[Finding]:
    """Find the first combination of searched values that a section refuses as a whole, for each section."""
    for section in ("training", "attack"):
        keys = [key for key in values if key.startswith(f"{section}.")]
        base = arm.get(section) or study.get(section)
        if not keys or _list_errors(FIELDS[section], override(base, {})):
            continue
        for combination in itertools.islice(itertools.product(*(values[key] for key in keys)), COMBINATIONS):
            pairs = dict(zip(keys, combination, strict=True))
            changes = {key.partition(".")[2]: value for key, value in pairs.items()}
            errors = [error for error in _list_errors(FIELDS[section], override(base, changes)) if not error["loc"]]
            if errors:
                kind = "space" if isinstance(arm["search"].get("space"), Mapping) else "grid"
                given = ", ".join(f"{key} {format_value(value)}" for key, value in pairs.items())
                yield (*place, "search", kind), f"may propose {given}: {describe_error(errors[0])}"
                break


def _list_errors(section: type[BaseModel], content: Any) -> list[Any]:
    try:
        section.model_validate(content)
    except ValidationError as error:
        return list(error.errors())
    return []
