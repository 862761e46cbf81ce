"""Several stores next to each other: their names, the names of their arms, and whether they can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.results.results import Results
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Study
from tune_interpreg.study.fields import format_value

DATA = "compare studies of the same data, with the same splits"
ATTACK = "compare studies under one attack"
EVALUATION = "make it equal in one study file and run it again: it judges the stored models and trains nothing"


@dataclass(frozen=True)
class ComparedArm:
    """An arm of one of the compared stores. label: its title, with the store's name if another store has that title."""

    store: str
    name: str
    label: str
    results: Results


def read_stores(paths: Sequence[str | Path]) -> dict[str, Results]:
    """Return name → results of stores that can be compared; a store's name is its folder's, or its path.

    Raises ``StoreError`` if there are fewer than two, one is given twice or is no store, or two of them differ in what
    their numbers depend on: the data, the splits, the attack, the settings of a judgment. The message has every
    difference, with both values and a remedy.
    """
    folders = [Path(path).absolute() for path in paths]
    if len(folders) < 2:
        raise StoreError(f"compare takes two or more stores, got {len(folders)}; `report` shows a single one")
    for place, folder in enumerate(folders):
        if folder.resolve() in [earlier.resolve() for earlier in folders[:place]]:
            raise StoreError(f"{folder}: is given twice; name each store once")
    counts = Counter(folder.name for folder in folders)
    names = [folder.name if counts[folder.name] == 1 else str(folder) for folder in folders]
    by_name = {name: Results.from_store(Store(folder)) for name, folder in zip(names, folders, strict=True)}
    first, *others = by_name.items()
    problems = [
        f"{name}: cannot be compared with {first[0]}: {place} is {write_value(theirs)} here"
        f" and {write_value(ours)} there; {remedy}"
        for name, results in others
        for place, ours, theirs, remedy in find_differences(first[1], results)
    ]
    problems += _find_other_entries(by_name)
    if problems:
        raise StoreError("\n".join(problems))
    return by_name


def list_arms(stores: Mapping[str, Results]) -> list[ComparedArm]:
    """Return the arms of all stores, in their order."""
    titles = Counter(results.title(arm) for results in stores.values() for arm in results.study.arms)
    arms = []
    for store, results in stores.items():
        for arm in results.study.arms:
            title = results.title(arm)
            arms.append(ComparedArm(store, arm, title if titles[title] == 1 else f"{title} ({store})", results))
    return arms


def find_differences(ours: Results, theirs: Results) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield place, both values and the remedy of everything in which two stores' test accuracies differ by design."""
    for remedy, settings in ((DATA, _data), (ATTACK, _attack), (EVALUATION, _evaluation)):
        first, second = settings(ours.study), settings(theirs.study)
        for place in first:
            if first[place] != second[place]:
                yield place, first[place], second[place], remedy
    images = [_fingerprints(results) for results in (ours, theirs)]
    if all(images) and images[0] != images[1]:
        ours_and_theirs = [" and ".join(sorted(prints)) for prints in images]
        yield "the fingerprint of the images", ours_and_theirs[0], ours_and_theirs[1], DATA


def _find_other_entries(stores: Mapping[str, Results]) -> Iterator[str]:
    """Yield a problem per entry of evaluation.attacks that has the name of an entry with other settings."""
    earlier: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, results in stores.items():
        for entry, settings in _entries(results.study).items():
            other, expected = earlier.setdefault(entry, (name, settings))
            for key, value in settings.items():
                if value != expected[key]:
                    place = f"{key} of {entry} in evaluation.attacks"
                    values = f"{write_value(value)} here and {write_value(expected[key])} there"
                    yield f"{name}: cannot be compared with {other}: {place} is {values}; {EVALUATION}"


def write_value(value: Any) -> str:
    """Return a value as a study file would write it, text without quotes."""
    return value if isinstance(value, str) else format_value(value)


def _data(study: Study) -> dict[str, Any]:
    settings = study.data.model_dump(mode="json", exclude={"root"})
    return {f"data.{field}": value for field, value in settings.items()}


def _attack(study: Study) -> dict[str, Any]:
    attack = study.evaluation_attack
    return {
        "attack.norm": attack.norm,
        "attack.eps": attack.eps,
        "attack.direction": attack.direction_or_default,
        "attack.start": attack.start_or_default,
    }


def _evaluation(study: Study) -> dict[str, Any]:
    attack = study.evaluation_attack
    return {
        "evaluation.steps": attack.steps,
        "evaluation.step_size": attack.step_length,
        "evaluation.restarts": study.evaluation.restarts,
        "evaluation.batch_size": study.evaluation.batch_size,
    }


def _entries(study: Study) -> dict[str, dict[str, Any]]:
    """Return the settings of each entry of evaluation.attacks by its name."""
    entries = {}
    for entry in study.evaluation.attacks:
        ball: Attack = study.ball_of(entry)
        settings: dict[str, Any] = {"norm": ball.norm, "eps": ball.eps, "autoattack": entry.autoattack}
        if entry.autoattack is None:
            settings |= {"steps": ball.steps, "restarts": entry.restarts or study.evaluation.restarts}
        entries[study.entry_name(entry)] = settings
    return entries


def _fingerprints(results: Results) -> set[str]:
    """Return the fingerprints of the images of the finished repeats; without any, nothing."""
    finished = [record for arm in results.study.arms for record in results.current.finished_repeats(arm).values()]
    return {record["recipe"]["data_fingerprint"] for record in finished} - {""}
