"""Find the files of a store that no table and no judgment needs any more."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store


@dataclass(frozen=True)
class Surplus:
    """Files of one kind that can go. reason: why nothing needs them, and what happens if something does."""

    kind: str
    reason: str
    paths: tuple[Path, ...]

    @property
    def size(self) -> int:
        """The bytes of the files."""
        return sum(path.stat().st_size for path in self.paths)


def find_surplus(store: Store) -> list[Surplus]:
    """Return what can be deleted: models of trials and old repeats, maps that no open training reads, set-aside files.

    Models of repeats stay, because later judgments read them. So do the models of the trials of a search that has
    not ended, because one of them may be chosen, and the maps of a teacher while a training towards them is open.
    Records stay, so nothing that is done runs again.

    Raises:
        StoreError: the folder is no store, or some of its records cannot be read.
    """
    study = store.load_study()
    records, damaged = store.read_ledger()
    if damaged:
        raise StoreError(f"{damaged[0]}; run the study, which sets damaged records aside and makes them again")
    choices = {name: choice for name in study.arms if (choice := store.read_choice(name))}
    current = Current(study, records, choices)
    needed = set(_needed_keys(current))
    models = [store.model_file(record["key"]) for record in records if record["kind"] == "train"]
    maps = [store.maps_file(record["key"]) for record in records if record["kind"] == "maps"]
    kinds = (
        Surplus("models", "of trials that were not chosen and of repeats that do not count", tuple(models)),
        Surplus("target maps", "that no open training reads; more seeds or trials would make them again", tuple(maps)),
        Surplus("damaged files", "that were set aside", tuple((store.path / "damaged").rglob("*"))),
    )
    surplus = []
    for kind in kinds:
        paths = sorted(path for path in set(kind.paths) if path.is_file() and path.name.split(".")[0] not in needed)
        if paths:
            surplus.append(Surplus(kind.kind, kind.reason, tuple(paths)))
    return surplus


def _needed_keys(current: Current) -> Iterator[str]:
    """Yield the keys of the models and maps that judgments, tables or open trainings read."""
    study, state = current.study, current.state
    for name, arm in study.arms.items():
        yield from (repeat["key"] for repeat in current.repeats[name].values())
        if not graph.is_search_over(study, state, name) or (arm.search and current.choice(name) is None):
            yield from (trial["key"] for trial in current.trials[name].values())
        chosen = (current.choice(name) or {}).get("params", {})
        if arm.targets and not graph.is_arm_over(study, state, name):
            yield from (maps.key for seed in study.seeds if (maps := current.maps_for(arm, seed, chosen)))
