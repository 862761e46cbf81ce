"""The driver's view of a study: the records that count by their exact keys, and the items that follow from them."""

from collections.abc import Callable, Mapping
from typing import Any

from tune_interpreg import registry
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.graph import Task
from tune_interpreg.search.choice import choose, may_stop_early, read_choice
from tune_interpreg.store.store import Damaged, Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item
from tune_interpreg.study.parameters import with_defaults
from tune_interpreg.study.recipe import Maps, Recipe


class Progress(Current):
    """The state of a study that runs. ``fingerprint``: of the data; ``say`` receives a line per damaged choice."""

    def __init__(self, study: Study, store: Store, fingerprint: str, say: Callable[[str], object] = print):
        super().__init__(study)
        for name in study.arms:
            try:
                if choice := read_choice(store, name):
                    self._stored_choices[name] = choice.model_dump(mode="json")
            except Damaged as error:
                say(f"{store.set_aside(error)}; {name}'s search chooses again")
        self.store, self.fingerprint = store, fingerprint
        self.interrupted: list[Item] = []  # started by an earlier run or this one, and to be finished
        self._match_inputs: dict[str, tuple[Any, ...]] = {}  # what each arm's ``matched`` was computed from

    # ------------------------------------------------------------------- records
    def requeue(self, item: Item) -> None:
        """Note that an item does not run after all and starts again later."""
        self.state.stage_of(Task.from_item(item)).running -= set(item.parts)
        self.interrupted.append(item)

    def belongs(self, item: Item, record: Record | None = None) -> bool:
        """Return whether the study as it is now would make exactly this item, and accept its record."""
        if not self.counts(item.model_dump(mode="json") if record is None else record):
            return False
        expected = self.item_for(Task.from_item(item), item.recipe.params)
        return expected == item or expected.key == item.key  # computing a key takes ten times as long

    def is_read(self, record: Record) -> bool:
        """Return whether work that is not done reads the files of this record: its model or its maps."""
        arm, state, role = record["arm"], self.state, record["role"]
        if role == "targets":
            key = (arm, Maps.model_validate(record["recipe"]["maps"]).map_settings)
            pupils = [name for name, pupil in self.study.arms.items() if graph.maps_key(pupil) == key]
            return not all(
                set(self.study.seeds) <= state.repeats[name].done and graph.is_search_over(self.study, state, name)
                for name in pupils
            )
        seeds = set(record["seeds"]) if role == "repeat" else set()
        checked = self.study.arms if arm in graph.attack_sources(self.study) else [arm]
        unread = [
            set(graph.maps_seeds(self.study, key)) - maps.done for key, maps in state.maps.items() if key[0] == arm
        ]
        unread += [seeds - state.checks[name].done for name in checked] if self.study.checks else []
        return any(seeds & open_seeds for open_seeds in unread)

    # --------------------------------------------------------------------- items
    def can_start(self, task: Task) -> bool:
        """Return whether the parameters of a ready task are known."""
        has_search = self.study.arms[task.arm].search is not None
        return task.role != "repeat" or not has_search or self.choice(task.arm) is not None

    def item_for(self, task: Task, params: Mapping[str, Scalar] | None = None) -> Item:
        """Return the item of a task. For a trial, ``params`` holds the searched parameters, among others."""
        name, search, parts = task.arm, self.study.arms[task.arm].search, task.parts
        if task.role == "search":
            assert search is not None
            assert params is not None
            seeds, attacks = self.study.seeds[:1], search.attacks_trials
            recipe = self._training(name, {parameter: params[parameter] for parameter in search.ranges}, seeds[0])
            return Item(arm=name, role="search", recipe=recipe, seeds=seeds, number=parts[0], adversarial=attacks)
        if task.role == "repeat":
            choice = self.choice(name)
            recipe = self._training(name, choice["params"] if choice else {}, parts[0])
        elif task.role == "checks":
            recipe = self._recipe("checks", checked=self.checked_model(name, parts[0]))
        else:
            teacher = self.model_key(name, parts[0])
            assert teacher is not None
            assert task.maps is not None
            recipe = self._recipe("targets", maps=Maps(**dict(task.maps), teacher=teacher, teacher_seed=parts[0]))
        return Item(arm=name, role=task.role, recipe=recipe, seeds=parts)

    def _training(self, name: str, searched: Mapping[str, Scalar], seed: int) -> Recipe:
        """Return the recipe of an arm's ``seed``: its own and the searched parameters, and defaults for the rest."""
        arm = self.study.arms[name]
        params = with_defaults(registry.load_method(arm.method).parameters, {**arm.params, **searched})
        return self._recipe(arm.method, params=params, maps=self.maps_for(name, seed) if arm.targets else None)

    def _recipe(self, method: str, **fields: Any) -> Recipe:
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
