"""The dispatcher: the next ready item of any arm, and what its result means for the rest.

It joins the graph, the searches and the store, and knows nothing of where items run: the in-process loop
and Ray Tune's searcher ask it alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from tune_interpreg import choice, graph, ledger, registry, seeding
from tune_interpreg.choice import Choice, Target
from tune_interpreg.config import Param, Study
from tune_interpreg.display import Display
from tune_interpreg.graph import State, Task
from tune_interpreg.items import Item, Maps, Recipe
from tune_interpreg.search import ArmSearch, journal
from tune_interpreg.store import Record, Store


class Pause(Enum):
    """Why there is no next item."""

    WAIT = "all that is open waits for items under way"
    DRAINED = "nothing is open any more"


class Dispatcher:
    """What is settled, what runs, and what comes next.

    Args:
        study: checked. store: its folder. fingerprint: of the data.
    """

    def __init__(self, study: Study, store: Store, fingerprint: str):
        self.study, self.store, self.fingerprint = study, store, fingerprint
        self.display: Display | None = None  # told of all that happens from now on
        self.state = State.empty(study)
        self.records: dict[tuple[str, int], Record] = {}
        self.items: dict[str, Item] = {}  # under way, by key
        self._searches: dict[str, ArmSearch] = {}
        self._choices: dict[str, Choice] = {}
        self._twins: dict[str, list[Item]] = {}
        self._storage: Any = None
        self._replay(store.records())
        self._begun = [item for item in store.begun() if store.record(item) is None]

    # ------------------------------------------------------------------ asking
    def next(self) -> Item | Pause:
        """The next item to run, noted as begun; or why there is none."""
        while (task := next(graph.ready(self.study, self.state), None)) is not None:
            item = self._item(task)
            settled = self.store.record(item)
            if settled is not None:
                self._settle(item, settled)
                continue
            self._tally(item).running.update(self._parts(item))
            if item.key in self.items:
                self._twins.setdefault(item.key, []).append(item)
                continue
            self.items[item.key] = item
            self.store.begin(item)
            if self.display:
                self.display.start(item)
            return item
        return Pause.WAIT if self.state.under_way else Pause.DRAINED

    def total(self) -> int:
        """How many parts (trials, seeds, maps) the study has."""
        return graph.total(self.study)

    def settled(self) -> int:
        """How many of them have a result."""
        tallies = [*self.state.searches.values(), *self.state.repeats.values(), *self.state.maps.values()]
        return sum(len(tally.settled) for tally in tallies)

    # ----------------------------------------------------------------- telling
    def epoch(self, item: Item, metrics: Mapping[str, float]) -> bool:
        """Take an epoch's report; True asks to stop the trial."""
        if self.display:
            self.display.epoch(item, metrics)
        if item.role != "search":
            return False
        return self._search(item.arm).should_prune(item.number, int(metrics["epoch"]), metrics)

    def finish(self, item: Item, record: Record) -> None:
        """Take the record that a worker has written."""
        self._settle(item, record)
        self.store.end(item)
        if self.display:
            self.display.settle(item, record, self.settled(), self.total())

    def prune(self, item: Item, metrics: Mapping[str, float], seconds: float = 0.0) -> Record:
        """Settle a trial that was stopped early."""
        means = {name: value for name, value in metrics.items() if "/" in name}
        by_seed = dict.fromkeys(item.seeds, means)
        record = ledger.record(item, "pruned", metrics=by_seed, epochs=int(metrics["epoch"]), seconds=seconds)
        return self._write(item, record)

    def fail(self, item: Item, error: str) -> Record:
        """Settle an item that was given up."""
        return self._write(item, ledger.record(item, "failed", error=error))

    def _write(self, item: Item, record: Record) -> Record:
        self.store.write_record(record)
        self.finish(item, record)
        return record

    # ------------------------------------------------------------------- state
    def _replay(self, records: Iterable[Record]) -> None:
        """Settle all of the store's records that belong to the study as it is now, prerequisites first."""
        left = {record["key"]: record for record in records}
        before = -1
        while len(left) != before:
            before = len(left)
            for key, record in list(left.items()):
                item = Item.model_validate({name: record[name] for name in Item.model_fields})
                if self._belongs(item, record):
                    self._settle(item, left.pop(key))

    def _belongs(self, item: Item, record: Record) -> bool:
        """Whether the study as it is now would make this very item."""
        if item.role == "targets":
            wanted = [name for name, arm in self.study.arms.items() if arm.targets and arm.targets.teacher == item.arm]
            return any(
                self._maps_item(name).recipe.key == record["recipe_key"] for name in wanted if self._taught(name)
            )
        arm = self.study.arms.get(item.arm)
        if arm is None or (arm.targets and not self._taught(item.arm)):
            return False
        space = arm.search.space if arm.search else {}
        searched = {name: item.recipe.params.get(name, "") for name in space}
        if not all(space[name].holds(value) for name, value in searched.items()):
            return False
        if self._recipe(item.arm, searched).key != record["recipe_key"]:
            return False
        if item.role == "search":
            return arm.search is not None and item.number < arm.search.trials and self._has_target(item.arm)
        return set(item.seeds) <= set(self.study.seeds) and (arm.search is None or self._chosen(item.arm) == searched)

    def _settle(self, item: Item, record: Record) -> None:
        tally = self._tally(item)
        parts = self._parts(item)
        tally.running.difference_update(parts)
        (tally.done if record["state"] == "done" else tally.lost).update(parts)
        record = record | {"number": item.number}
        self.records[item.key, item.number] = record
        self.items.pop(item.key, None)
        if item.role == "search" and item.arm in self._searches:
            self._searches[item.arm].tell(record)
        for twin in self._twins.pop(item.key, []):
            self._settle(twin, record)

    def _tally(self, item: Item) -> graph.Tally:
        if item.role != "targets":
            return (self.state.searches if item.role == "search" else self.state.repeats)[item.arm]
        maps = item.recipe.maps
        assert maps is not None
        return self.state.maps[item.arm, maps.sigma, maps.samples]

    @staticmethod
    def _parts(item: Item) -> tuple[int, ...]:
        return (item.number,) if item.role == "search" else item.seeds

    # ------------------------------------------------------------------- items
    def _item(self, task: Task) -> Item:
        if task.role == "targets":
            return self._maps_item(task.arm)
        if task.role == "repeat":
            return Item(
                arm=task.arm, role="repeat", recipe=self._recipe(task.arm, self._chosen(task.arm)), seeds=task.parts
            )
        (number,) = task.parts
        begun = next((item for item in self._begun if self._is_proposal(item, task.arm, number)), None)
        searched = self._search(task.arm).propose(number, begun.recipe.params if begun else None)
        search = self.study.arms[task.arm].search
        return Item(
            arm=task.arm,
            role="search",
            recipe=self._recipe(task.arm, searched),
            seeds=self.study.seeds[:1],
            number=number,
            adversarial=search is None or search.match_loss_of is None,
        )

    def _is_proposal(self, item: Item, arm: str, number: int) -> bool:
        """Whether ``item`` is the trial of this number that an earlier run began, and still fits the study."""
        search = self.study.arms[arm].search
        if search is None or (item.arm, item.role, item.number) != (arm, "search", number):
            return False
        searched = {name: item.recipe.params.get(name, "") for name in search.space}
        fits = all(search.space[name].holds(value) for name, value in searched.items())
        return fits and self._recipe(arm, searched).key == item.recipe.key

    def _recipe(self, name: str, searched: Mapping[str, Param] | None) -> Recipe:
        """The recipe of an arm: its method's defaults, its own parameters, and the searched ones."""
        arm = self.study.arms[name]
        known = registry.resolve("methods", arm.method).parameters
        defaults = {key: parameter.default for key, parameter in known.items() if parameter.default is not None}
        return self._with_data(
            method=arm.method,
            params=defaults | arm.params | dict(searched or {}),
            maps=self._maps(name) if arm.targets else None,
        )

    def _with_data(self, **own: Any) -> Recipe:
        return Recipe.of(self.study, data_fingerprint=self.fingerprint, **own)

    def _maps_item(self, consumer: str) -> Item:
        maps = self._maps(consumer).model_copy(update={"permute": False})
        targets = self.study.arms[consumer].targets
        assert targets is not None
        recipe = self._with_data(method="targets", maps=maps)
        return Item(arm=targets.teacher, role="targets", recipe=recipe, seeds=(maps.teacher_seed,))

    def _maps(self, consumer: str) -> Maps:
        targets = self.study.arms[consumer].targets
        assert targets is not None
        seed = self.study.seeds[0]
        return Maps(
            teacher=self._repeat_of(targets.teacher, seed)["key"],
            teacher_seed=seed,
            sigma=targets.sigma,
            samples=targets.samples,
            permute=targets.permute,
        )

    def _taught(self, name: str) -> bool:
        targets = self.study.arms[name].targets
        return targets is not None and self.study.seeds[0] in self.state.repeats[targets.teacher].done

    def _repeat_of(self, arm: str, seed: int) -> Record:
        return next(record for record in self.settled_of(arm, "repeat") if seed in record["seeds"])

    def settled_of(self, arm: str, role: str) -> list[Record]:
        """The settled records of an arm, by number and seeds."""
        found = [record for record in self.records.values() if record["arm"] == arm and record["role"] == role]
        return sorted(found, key=lambda record: (record["number"], record["seeds"]))

    # ---------------------------------------------------------------- searches
    def _search(self, name: str) -> ArmSearch:
        """The arm's search, opened when first needed: a finished study never opens Optuna's journal."""
        if name not in self._searches:
            arm = self.study.arms[name]
            assert arm.search is not None
            self._storage = self._storage or journal(self.store.journal)
            self._searches[name] = ArmSearch(
                name,
                arm.search,
                seed=seeding.number(self.study.seeds[0], "study"),
                storage=self._storage,
                target=self._target(name),
                records=self.settled_of(name, "search"),
            )
        return self._searches[name]

    def _chosen(self, name: str) -> Mapping[str, Param] | None:
        """What the arm's search chose; None without a search, while it goes on, or where no trial was done.

        A choice is kept in the store: the repeats' keys rest on its last digit, whoever computes it again.
        """
        search = self.study.arms[name].search
        if search is None or len(self.state.searches[name].settled) < search.trials:
            return None
        records = self.settled_of(name, "search")
        if name not in self._choices or self._choices[name].trials != choice.basis(records):
            known = self.store.choice(name)
            made = Choice.model_validate(known) if known and known["trials"] == choice.basis(records) else None
            made = made or choice.choose(search, records, self._target(name))
            if made is None:
                return None
            self.store.write_json(self.store.choice_file(name), made.model_dump(mode="json"))
            self._choices[name] = made
        return self._choices[name].params

    def _has_target(self, name: str) -> bool:
        search = self.study.arms[name].search
        reference = search.match_loss_of if search else None
        return reference is None or set(self.study.seeds) <= self.state.repeats[reference].settled

    def _target(self, name: str) -> Target | None:
        search = self.study.arms[name].search
        if search is None or search.match_loss_of is None:
            return None
        repeats = self.settled_of(search.match_loss_of, "repeat")
        return Target.of([record for record in repeats if record["state"] == "done"])
