"""Rules that no single section can check: registered names, parameters of methods, edges between arms.

They read the file's own mappings, so that a mistake elsewhere in an arm hides none of them.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tune_interpreg import registry
from tune_interpreg.study.config import (
    DEFAULT_SEEDS,
    Arm,
    Attack,
    AttackEntry,
    Data,
    Model,
    OpenSection,
    find_entry_problems,
)
from tune_interpreg.study.fields import format_value, is_number
from tune_interpreg.study.file.messages import suggest_sections
from tune_interpreg.study.file.options import Option, list_options
from tune_interpreg.study.file.searched import find_setting_problems
from tune_interpreg.study.metric_names import VAL_ADV_ACCURACY, Selectable
from tune_interpreg.study.overrides import complete_arms
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.problems import Finding, Place
from tune_interpreg.study.space import Range

Section = Mapping[str, Any]

#: Key → its place and value.
Written = dict[str, tuple[Place, Any]]

#: An arm's name is part of file names, and other arms refer to it: null refers to none.
_ARM_NAME = re.compile(r"(?!(?:null|Null|NULL)$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def find_problems(raw: Section) -> list[Finding]:
    """Return all problems of names, parameters and edges in ``raw``, the content of a study file."""
    findings = [*_check_builder("datasets", raw, "data", Data), *_check_builder("models", raw, "model", Model)]
    findings += [*_check_evaluation(raw), *_check_radii(raw)]
    if find_spec("pyautoattack") is None:
        remedy = 'install it with pip install "tune-interpreg[autoattack]", or drop autoattack'
        findings += [(place, f"needs the package pyautoattack; {remedy}") for place in _places_of_autoattack(raw)]
    arms, whole_arms = _section(raw, "arms"), _section(complete_arms(raw), "arms")
    findings += _check_matched(raw, arms)
    for name, arm in arms.items():
        if not _ARM_NAME.fullmatch(name):
            rule = (
                "an arm's name takes letters, digits, _ and - (it is part of file names), at most 64, and is not null"
            )
            findings.append((("arms", name), f"{rule}, got {format_value(name)}"))
        if isinstance(arm, Mapping):
            whole = whole_arms[name]
            findings += _check_method(name, arm)
            findings += _check_norm(raw, name, arm)
            findings += find_setting_problems(raw, ("arms", name), arm, whole)
            if arm.get("model") is not None:
                places = _check_builder("models", whole, "model", Model)
                findings += [(("arms", name, *place), message) for place, message in places]
            findings += _check_trial_seeds(name, arm, raw.get("seeds"))
            findings += _check_pruner(name, arm, _section(raw, "evaluation").get("adversarial_every", 0))
    return findings + list(_check_edges(arms))


def _check_evaluation(raw: Section) -> Iterator[Finding]:
    """Check the entries of evaluation.attacks against the study's attack, and that checks have one place."""
    evaluation = _section(raw, "evaluation")
    if "checks" in raw and "checks" in evaluation:
        yield ("checks",), "stands in evaluation too; drop this one"
    entries = evaluation.get("attacks")
    try:
        attack = Attack.model_validate(_section(raw, "attack"))
        attacks = [AttackEntry.model_validate(entry) for entry in entries] if isinstance(entries, list) else []
    except ValidationError:
        return  # reported with the section
    for number, problem in find_entry_problems(attacks, attack):
        yield ("evaluation", "attacks", number), problem


def _check_radii(raw: Section) -> Iterator[Finding]:
    """Check the radii under linf of the attack, of arms, their searches and further attacks, for pixels in [0, 1]."""
    attack = _section(raw, "attack")
    norm = attack.get("norm", Attack().norm)
    if norm == "linf" and "eps" not in attack and attack.keys() <= Attack.model_fields.keys():  # else misspelled
        yield ("attack",), f"needs eps, because its default {Attack().eps:g} is a radius under l2"
    balls: list[tuple[Place, Section]] = [(("attack",), attack)]
    balls += [(("arms", name, "attack"), _section(raw, "arms", name, "attack")) for name in _section(raw, "arms")]
    entries = _section(raw, "evaluation").get("attacks")
    listed = entries if isinstance(entries, list | tuple) else ()
    balls += [(("evaluation", "attacks", number), entry) for number, entry in enumerate(listed)]
    radii: list[tuple[Place, Any, Any]] = [
        ((*place, "eps"), ball.get("eps"), ball.get("norm")) for place, ball in balls if isinstance(ball, Mapping)
    ]
    for name in _section(raw, "arms"):
        searched = _section(raw, "arms", name, "search", "space", "attack.eps").values()
        numbers = [x for bounds in searched if isinstance(bounds, list) for x in bounds if isinstance(x, (int, float))]
        ball_norm = _section(raw, "arms", name, "attack").get("norm")
        radii.append((("arms", name, "search", "space", "attack.eps"), max(numbers, default=None), ball_norm))
    for place, eps, ball_norm in radii:
        if isinstance(eps, (int, float)) and eps > 1 and (ball_norm or norm) == "linf":
            rule = "takes at most 1 under linf, because pixels are in [0, 1]"
            yield place, f"{rule}, got {eps:g}; 8/255 is 0.031372549"


def _check_matched(raw: Section, arms: Section) -> Iterator[Finding]:
    """Check that no search matches a metric that the evaluation does not measure."""
    evaluation = _section(raw, "evaluation")
    for name in arms:
        metric = _section(arms, name, "search", "match").get("metric")
        if not isinstance(metric, str) or metric in get_args(Selectable):
            continue
        for key, prefix, default in (("gradient_norms", "grad_norm/", {}), ("interpretability", "val/", None)):
            if metric.startswith(prefix) and evaluation.get(key, default) is None:
                place = ("arms", name, "search", "match", "metric")
                yield place, f"{metric} is measured with evaluation.{key}; give evaluation: {{{key}: {{}}}}"


def _places_of_autoattack(raw: Section) -> Iterator[Place]:
    """Yield the places that ask for AutoAttack."""
    attacks = _section(raw, "evaluation").get("attacks")
    for number, entry in enumerate(attacks if isinstance(attacks, Sequence) else ()):
        if isinstance(entry, Mapping) and entry.get("autoattack") is not None:
            yield "evaluation", "attacks", number, "autoattack"
    for place in (("checks",), ("evaluation", "checks")):
        if _section(raw, *place).get("autoattack") is not None:
            yield *place, "autoattack"


def _section(raw: Section, *keys: str) -> Section:
    """Return the mapping under ``keys``; empty if there is none."""
    for key in keys:
        inner = raw.get(key)
        raw = inner if isinstance(inner, Mapping) else {}
    return raw


def _extra_keys(settings: Section, section: type[OpenSection], place: Place) -> Written:
    """Return the keys of a section that are not fields of its class. A resolved study has them in ``ADDITIONAL``."""
    into = section.ADDITIONAL
    if into in settings:
        return {key: ((*place, into, key), value) for key, value in _section(settings, into).items()}
    return {key: ((*place, key), value) for key, value in settings.items() if key not in section.model_fields}


# ------------------------------------------- registered names, options, parameters
def _check_builder(group: str, raw: Section, key: str, section: type[Data | Model]) -> Iterator[Finding]:
    """Check a section that selects a data set or a model, and its options."""
    content = raw.get(key)
    settings = content if isinstance(content, Mapping) else {"name": content}
    name = settings.get("name", section().name)
    if not isinstance(name, str):
        return
    try:
        builder = registry.resolve(group, name)
    except (registry.UnknownName, registry.BrokenPlugin) as error:
        yield (key, "name") if isinstance(content, Mapping) else (key,), str(error)
        return
    subject, accepted = f"{group[:-1]} {name}", list_options(builder)
    options = _extra_keys(settings, section, (key,))
    yield from _check_keys(f"option; {subject}", accepted, options, section, Option.find_problem)
    yield from _check_missing(subject, accepted, options, (key,))


def _check_method(name: str, arm: Section) -> Iterator[Finding]:
    """Check the method of an arm, its parameters, its teacher and its targets."""
    if not isinstance(arm.get("method"), str):
        return
    place, subject = ("arms", name), f"method {arm['method']}"
    try:
        method = registry.load_method(arm["method"])
    except (ValueError, registry.UnknownName, registry.BrokenPlugin) as error:
        yield (*place, "method"), str(error)
        return
    yield from _check_teacher(place, arm, method)
    yield from _check_targets(place, arm, method)
    params = _extra_keys(arm, Arm, place)
    space, grid = (_section(arm, "search", kind) for kind in ("space", "grid"))
    ranges: Written = {key: ((*place, "search", "space", key), span) for key, span in space.items()}
    ranges |= {key: ((*place, "search", "grid", key), None) for key in grid}
    ranges = {key: written for key, written in ranges.items() if "." not in key}  # others are settings
    yield from _check_keys(f"parameter; {subject}", method.parameters, params, Arm, Parameter.find_problem)
    yield from _check_keys(f"parameter; {subject}", method.parameters, ranges, Arm, _find_range_problem)
    yield from _check_choices(method.parameters, arm, place)
    yield from _check_missing(subject, method.parameters, params | ranges, place)
    for key in ranges:
        if key in params:
            yield params[key][0], f"is searched too; drop it here, or drop {'.'.join(map(str, ranges[key][0][2:]))}"


def _check_norm(raw: Section, name: str, arm: Section) -> Iterator[Finding]:
    """Check that an arm's attack under another norm has a radius of its own."""
    attack, norm = _section(arm, "attack"), _section(raw, "attack").get("norm", Attack().norm)
    if attack.get("norm", norm) != norm and "eps" not in attack:
        yield ("arms", name, "attack"), f"needs eps, because attack.eps is a radius under {norm}"


def _check_teacher(place: Place, arm: Section, method: Any) -> Iterator[Finding]:
    teachers, needed = _teachers_of(arm, place), method.needs_teacher or method.needs_targets
    if len(teachers) > 1:
        yield teachers[1][0], "stands in the arm too; drop this one"
    if needed and not teachers:
        yield place, f"method {arm['method']} needs a teacher; add teacher: ARM"
    if teachers and not needed:
        if "teacher" in arm:  # else the targets are refused
            yield teachers[0][0], f"method {arm['method']} takes no teacher; drop it, or use another method"
    elif not teachers and arm.get("teachers", "shared") != "shared":
        yield (*place, "teachers"), "belongs to an arm with a teacher; drop it"


def _teachers_of(arm: Section, place: Place) -> list[tuple[Place, Any]]:
    """Return the places and values of the arm's teacher: its own key, and that in ``targets`` of earlier versions."""
    written = {("teacher",): arm.get("teacher"), ("targets", "teacher"): _section(arm, "targets").get("teacher")}
    return [((*place, *inner), value) for inner, value in written.items() if value is not None]


def _check_targets(place: Place, arm: Section, method: Any) -> Iterator[Finding]:
    targets = arm.get("targets")
    if method.needs_targets and targets is None:
        yield place, f"method {arm['method']} needs targets, the settings of the teacher's maps; add targets: {{}}"
    if targets is not None and not method.needs_targets:
        yield (*place, "targets"), f"method {arm['method']} takes no targets; drop them, or use another method"
    elif method.signed_targets and isinstance(targets, Mapping) and targets.get("sign") != "signed":
        message = f"method {arm['method']} compares signed gradients; give targets.sign: signed"
        yield (*place, "targets", "sign"), message


def _check_trial_seeds(name: str, arm: Section, seeds: Any) -> Iterator[Finding]:
    """Check the seeds of an arm's trials against the study's, and that one job can train them."""
    count = _section(arm, "search").get("seeds")
    if not isinstance(count, int) or count <= 1:
        return  # reported with the section, if it is wrong
    place, most = ("arms", name, "search", "seeds"), len(seeds if isinstance(seeds, list) else DEFAULT_SEEDS)
    if count > most:
        yield place, f"takes at most {most}, the number of the study's seeds, got {count}"
    if "per_seed" in (arm.get("teachers"), _section(arm, "targets").get("teachers")):
        yield place, "the seeds of a trial share one teacher; give seeds: 1, or teachers: shared"


def _check_pruner(name: str, arm: Section, adversarial_every: Any) -> Iterator[Finding]:
    """Check that epochs measure what the pruner of an arm's search reads."""
    search = _section(arm, "search")
    is_unmeasured = search.get("maximize") == VAL_ADV_ACCURACY and adversarial_every == 0
    if is_unmeasured and search.get("pruner", "none") != "none":
        rule = f"reads {VAL_ADV_ACCURACY} after epochs, but evaluation.adversarial_every is 0"
        yield ("arms", name, "search", "pruner"), f"{rule}; set it to 1 or more, or drop pruner"


def _find_range_problem(parameter: Parameter, span: Any) -> str | None:
    """Return why a search between the bounds in ``span`` may propose values that the parameter refuses, or None."""
    try:
        values = Range.model_validate(span)
    except ValidationError:
        return None  # reported with the section
    if values.bounds and parameter.choices:
        return f"takes {parameter.allowed_values()}; search it by choice: [VALUES]"
    if values.bounds and parameter.integer and not values.is_whole:
        return f"takes {parameter.allowed_values()}; search it by int: [low, high], or by choice: [VALUES]"
    return next(filter(None, map(parameter.find_problem, values.bounds or ())), None)


def _check_choices(parameters: Mapping[str, Parameter], arm: Section, place: Place) -> Iterator[Finding]:
    """Check the values of each choice and of a grid that belong to the method's parameters."""
    grid, space = (_section(arm, "search", kind) for kind in ("grid", "space"))
    lists: list[tuple[str, Place, Any]] = [(key, ("grid", key), values) for key, values in grid.items()]
    lists += [(key, ("space", key, "choice"), _section(space, key).get("choice")) for key in space]
    for key, inner, values in lists:
        if key in parameters and isinstance(values, list | tuple):
            for index, value in enumerate(values):
                problem = parameters[key].find_problem(value)
                # other types are reported with the section
                if problem and (is_number(value) or isinstance(value, (str, bool))):
                    yield (*place, "search", *inner, index), problem


def _check_keys(
    subject: str, accepted: Mapping[str, Any], keys: Written, section: type[BaseModel], find: Callable[..., str | None]
) -> Iterator[Finding]:
    """Check the names and values of additional keys of a section."""
    for key, (place, value) in keys.items():
        if key in accepted:
            problem = find(accepted[key], value)
        else:
            similar = difflib.get_close_matches(key.lower(), [*accepted, *section.model_fields], n=1)
            homes = suggest_sections(key, section) or similar
            hint = f" (did you mean {homes[0]}?)" if homes else ""
            problem = f"unknown {subject} takes {', '.join(accepted) or 'none'}{hint}"
        if problem:
            yield place, problem


def _check_missing(subject: str, accepted: Mapping[str, Any], written: Written, place: Place) -> Iterator[Finding]:
    """Find required keys that are missing, except those that are misspelled."""
    misspelled = [key for key in written if key not in accepted]
    for key, item in accepted.items():
        if item.required and key not in written and not difflib.get_close_matches(key, misspelled):
            yield place, f"{subject} needs {key}: give a value{f', or search it ({item.help})' if item.help else ''}"


# -------------------------------------------------------------------------- edges
def _check_edges(arms: Section) -> Iterator[Finding]:
    """Check that the arms to finish first exist and do not wait for each other. Reports one cycle."""
    places: dict[str, dict[str, Place]] = {}
    for name in arms:
        places[name] = {}
        search = _section(arms, name, "search")
        edges = _teachers_of(_section(arms, name), ("arms", name))
        edges += [(("arms", name, "search", key), search.get(key)) for key in ("match_loss_of", "anchor")]
        edges += [(("arms", name, "search", "match", "arm"), _section(search, "match").get("arm"))]
        conditions = ((metric, _section(search, "where", metric)) for metric in _section(search, "where"))
        edges += [(("arms", name, "search", "where", metric, "of"), of.get("of")) for metric, of in conditions]
        for written, other in edges:
            if isinstance(other, str):
                places[name][other] = written
                if other not in arms:
                    yield places[name][other], f"unknown arm {format_value(other)}; {registry.suggest(other, arms)}"
    try:
        TopologicalSorter(places).prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]  # each arm waits for the next
        place = places[cycle[0]][cycle[1]]
        yield place, f"waits for itself: {' → '.join(cycle)}; drop one of these edges"
