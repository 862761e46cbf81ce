"""The driver's view of a study: the records that count by their exact keys, and the items that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tune_interpreg import registry
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.graph import Task
from tune_interpreg.search.choice import choose, load_choice, may_stop_early
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item
from tune_interpreg.study.parameters import with_defaults
from tune_interpreg.study.recipe import Maps, Recipe


class Progress(Current):
    """The state of a study that runs.

    Attributes:
        interrupted: items that an earlier run, or this one, started and that are to be finished.

    Args:
        fingerprint: of the data.
        say: receives a line about each damaged choice.
    """

    def __init__(self, study: Study, store: Store, fingerprint: str, say: Callable[[str], object] = print):
        stored = {name: load_choice(store, name, say) for name, arm in study.arms.items() if arm.search}
        super().__init__(study, {name: choice.model_dump(mode="json") for name, choice in stored.items() if choice})
        self.store, self.fingerprint = store, fingerprint
        self.interrupted: list[Item] = []
        self._match_inputs: dict[str, tuple[Any, ...]] = {}  # what each arm's ``matched`` was computed from

    # ------------------------------------------------------------------- records
    def requeue(self, item: Item) -> None:
        """Note that an item does not run after all and starts again later."""
        stage = self._stage_of(item.arm, item.role, item.recipe.maps)
        assert stage is not None
        stage.running -= set(item.parts)
        self.interrupted.append(item)

    def belongs(self, item: Item, record: Record | None = None) -> bool:
        """Return whether the study as it is now would make exactly this item, and accept its record."""
        if not self.counts(item.model_dump(mode="json") if record is None else record):
            return False
        expected = self.item_for(self.task_of(item), item.recipe.params)
        return expected == item or expected.key == item.key  # computing a key takes ten times as long

    def accepts(self, item: Item, record: Record) -> bool:
        """Return whether a record of an equal item is a result of this item."""
        return self.accepts_state(item.arm, record["state"])

    def is_read(self, record: Record) -> bool:
        """Return whether work that is not done reads the files of this record: its model or its maps."""
        arm, state = record["arm"], self.state
        if record["role"] == "targets":
            key = (arm, Maps.model_validate(record["recipe"]["maps"]).map_settings)
            pupils = [name for name, pupil in self.study.arms.items() if graph.maps_key(pupil) == key]
            return not all(self._is_done(name) for name in pupils)
        checked = self.study.arms if arm in graph.attack_sources(self.study) else [arm]
        for seed in record["seeds"] if record["role"] == "repeat" else ():
            for key, maps in state.maps.items():
                if key[0] == arm and seed in graph.maps_seeds(self.study, key) and seed not in maps.done:
                    return True
            if self.study.checks and any(seed not in state.checks[name].done for name in checked):
                return True
        return False

    def _is_done(self, name: str) -> bool:
        is_repeated = set(self.study.seeds) <= self.state.repeats[name].done
        return is_repeated and graph.is_search_over(self.study, self.state, name)

    # --------------------------------------------------------------------- items
    def can_start(self, task: Task) -> bool:
        """Return whether the parameters of a ready task are known."""
        has_search = self.study.arms[task.arm].search is not None
        return task.role != "repeat" or not has_search or self.choice(task.arm) is not None

    def task_of(self, item: Item) -> Task:
        """Return the task that an item settles. Maps carry their teacher's name, their task that of a pupil."""
        if item.role != "targets" or item.recipe.maps is None:
            return Task(item.arm, item.role, item.parts)
        key = (item.arm, item.recipe.maps.map_settings)
        arm = graph.consumer(self.study, key) if key in self.state.maps else item.arm
        return Task(arm, item.role, item.parts)

    def item_for(self, task: Task, params: Mapping[str, Scalar] | None = None) -> Item:
        """Return the item of a task. For a trial, ``params`` holds the searched parameters, among others."""
        if task.role == "targets":
            return self.maps_item(task.arm, *task.parts)
        if task.role == "checks":
            return self.checks_item(task.arm, *task.parts)
        if task.role == "repeat":
            return self.repeat_item(task.arm, task.parts)
        (number,) = task.parts
        return self.trial_item(task.arm, number, params or {})

    def trial_item(self, arm: str, number: int, params: Mapping[str, Scalar]) -> Item:
        """Return trial ``number`` of the arm's search."""
        search = self.study.arms[arm].search
        assert search is not None
        recipe = self._recipe(arm, {name: params[name] for name in search.ranges}, self.study.seeds[0])
        seeds, attacks = self.study.seeds[:1], search.attacks_trials
        return Item(arm=arm, role="search", recipe=recipe, seeds=seeds, number=number, adversarial=attacks)

    def repeat_item(self, arm: str, seeds: tuple[int, ...]) -> Item:
        """Return the arm's final training with ``seeds``, after its search if it has one."""
        choice = self.choice(arm)
        recipe = self._recipe(arm, choice["params"] if choice else {}, seeds[0])
        return Item(arm=arm, role="repeat", recipe=recipe, seeds=seeds)

    def maps_item(self, consumer: str, seed: int) -> Item:
        """Return the item that makes the maps for the arm ``consumer``, of the teacher's ``seed``."""
        targets = self.study.arms[consumer].targets
        assert targets is not None
        teacher = self.model_key(targets.teacher, seed)
        assert teacher is not None
        maps = Maps(**targets.map_settings.model_dump(), teacher=teacher, teacher_seed=seed)
        recipe = self._recipe_with_data(method="targets", maps=maps)
        return Item(arm=targets.teacher, role="targets", recipe=recipe, seeds=(seed,))

    def checks_item(self, arm: str, seed: int) -> Item:
        """Return the checks of the model that the arm's repeat trained with ``seed``."""
        recipe = self._recipe_with_data(method="checks", checked=self.checked_model(arm, seed))
        return Item(arm=arm, role="checks", recipe=recipe, seeds=(seed,))

    def _recipe(self, name: str, searched: Mapping[str, Scalar], seed: int) -> Recipe:
        """Return the recipe of an arm's ``seed``: its own and the searched parameters, and defaults for the rest."""
        arm = self.study.arms[name]
        params = with_defaults(registry.load_method(arm.method).parameters, {**arm.params, **searched})
        maps = self.maps_for(name, seed) if arm.targets else None
        return self._recipe_with_data(method=arm.method, params=params, maps=maps)

    def _recipe_with_data(self, *, method: str, **fields: Any) -> Recipe:
        return Recipe.from_study(self.study, method=method, data_fingerprint=self.fingerprint, **fields)

    # ------------------------------------------------------------------ searches
    def choice(self, name: str) -> Mapping[str, Any] | None:
        """Return the arm's choice; make and store it if the search is over and has none.

        It is stored because the repeats' keys depend on its exact value.
        """
        choice, search = super().choice(name), self.study.arms[name].search
        if choice is not None or search is None or not graph.is_search_over(self.study, self.state, name):
            return choice
        target = self.target(name)
        if search.match_loss_of and target is None:
            return None
        new = choose(search, self.records_of(name, "search"), target)
        if new is None:
            return None
        content = new.model_dump(mode="json")
        self._stored_choices[name] = content
        self.store.write_checked(self.store.choice_file(name), content)
        return content

    def has_match(self, name: str) -> bool:
        """Return whether the arm's match needs no further trials.

        A stored choice of these trials decides, because a match must not depend on the last digit of the machine.
        """
        search, target = self.study.arms[name].search, self.target(name)
        if search is None or super().has_match(name):
            return search is not None
        return target is not None and may_stop_early(search, self.records_of(name, "search"), target)

    def update_matches(self) -> None:
        """Note which matches need no further trials, and which of their trials are to be finished."""
        for name, arm in self.study.arms.items():
            if arm.search is None or arm.search.match_loss_of is None:
                continue
            settled = len(self.state.searches[name].settled)
            inputs = settled, self.reference_key(arm.search), self.target(name)
            if self._match_inputs.get(name) != inputs:
                self._match_inputs[name] = inputs
                self._update_match(name)
            is_matched = name in self.state.matched
            self.state.interrupted[name] = self._interrupted_trials(name) if is_matched else set()

    def _interrupted_trials(self, name: str) -> set[int]:
        trials = self.state.searches[name]
        items = [item for item in self.interrupted if (item.arm, item.role) == (name, "search")]
        return {item.number for item in items if trials.is_open(item.number) and self.belongs(item)}
