"""How far a study is: what is settled of it, what its searches chose, and the items that follow from both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from tune_interpreg import registry
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.search.choice import Choice, digest_trials, load_choice
from tune_interpreg.search.choosing import choose, may_stop_early
from tune_interpreg.search.target import Target, check_loss
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study, Targets
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item, Role
from tune_interpreg.study.recipe import CheckedModel, Maps, Recipe
from tune_interpreg.study.space import Search


class Progress:
    """A study and what is settled of it.

    Args:
        study: checked. store: its folder. fingerprint: of the data. say: tells the user of a damaged choice.
    """

    def __init__(self, study: Study, store: Store, fingerprint: str, say: Callable[[str], object] = print):
        self.study, self.store, self.fingerprint, self.say = study, store, fingerprint, say
        self.state = State.empty(study)
        self._settled: defaultdict[tuple[str, Role], list[Record]] = defaultdict(list)
        self._choices: dict[str, Choice] = {}
        self._looked: dict[str, tuple[Any, ...]] = {}  # what it rests on that a match is found, or is not
        self.begun: list[Item] = []  # what was begun, by an earlier run or this one, and waits to go on

    # ------------------------------------------------------------ what is settled
    def settle(self, item: Item, record: Record) -> None:
        """Take the record of an item of this study; raises ``MissingLoss`` where it lacks a loss that is matched."""
        check_loss(self.study, item, record)
        tally, parts = self.tally(item), item.parts
        tally.running.difference_update(parts)
        lost = ledger.lost_seeds(record) if record["state"] == "done" else set(parts)
        tally.done.update(set(parts) - lost)
        tally.lost.update(lost)
        self._settled[item.arm, item.role].append(record)

    def start(self, item: Item) -> None:
        """Note that an item runs now."""
        self.tally(item).running.update(item.parts)

    def give_back(self, item: Item) -> None:
        """Note that an item does not run after all, but will."""
        self.tally(item).running.difference_update(item.parts)
        self.begun.append(item)

    def reopen(self, item: Item) -> None:
        """Forget that an item is done, so that it runs again."""
        for parts in (self.tally(item).done, self.tally(item).lost):
            parts.difference_update(item.parts)
        settled = self._settled[item.arm, item.role]
        settled[:] = [one for one in settled if (one["key"], one["number"]) != (item.key, item.number)]

    def may_start(self, task: Task) -> bool:
        """Whether all that the task's item follows from is known; what is made anew is waited for."""
        if task.role in ("targets", "checks"):
            return True
        seed = task.parts[0] if task.role == "repeat" else self.study.seeds[0]
        chosen = task.role == "search" or not self.study.arms[task.arm].search or self.chosen(task.arm) is not None
        return self._may_train(task.arm, seed) and chosen

    def needs_of(self, task: Task) -> Maps | CheckedModel | None:
        """The models that the task's item checks, or the maps that it makes or trains towards."""
        if task.role == "checks":
            return self._checked(task.arm, *task.parts)
        if self.study.arms[task.arm].targets is None:
            return None
        if task.role == "targets":
            return self._maps(task.arm, *task.parts)
        seed = task.parts[0] if task.role == "repeat" else self.study.seeds[0]
        return self._maps(task.arm, graph.teacher_seed(self.study, self.study.arms[task.arm], seed))

    def tally(self, item: Item) -> graph.StageParts:
        """The stage of the study that an item is part of."""
        if item.role != "targets":
            stages = {"search": self.state.searches, "repeat": self.state.repeats, "checks": self.state.checks}
            return stages[item.role][item.arm]
        maps = item.recipe.maps
        assert maps is not None
        return self.state.maps[item.arm, maps.map_settings]

    def settled_of(self, arm: str, role: Role) -> list[Record]:
        """The settled records of an arm, by number and seeds."""
        return sorted(self._settled[arm, role], key=lambda record: (record["number"], record["seeds"]))

    def belongs(self, item: Item) -> bool:
        """Whether the study as it is now would make this very item."""
        if item.role == "targets":
            return any(
                self.maps_item(graph.consumer(self.study, key), seed).key == item.key
                for key in self.state.maps
                for seed in set(item.seeds) & set(graph.maps_seeds(self.study, key))
                if key[0] == item.arm and seed in self.state.repeats[item.arm].done
            )
        if item.role == "checks":
            (seed,), known = item.seeds, item.arm in self.study.arms and item.seeds[0] in self.study.seeds
            wanted = known and graph.can_check(self.study, self.state, item.arm, seed)
            return wanted and self.checks_item(item.arm, seed).key == item.key
        if item.arm not in self.study.arms or not self._may_train(item.arm, item.seeds[0]):
            return False
        search = self.study.arms[item.arm].search
        searched = {name: item.recipe.params.get(name, "") for name in search.ranges} if search else {}
        if search and not search.could_propose(searched, item.number if item.role == "search" else None):
            return False
        if item.role == "search":
            known = search is not None and item.number < search.trials
            made = self.trial_item(item.arm, item.number, searched)
            return known and (made == item or made.key == item.key)  # a key takes ten times as long
        if not set(item.seeds) <= set(self.study.seeds) or (search and self.chosen(item.arm) != searched):
            return False
        return self.repeat_item(item.arm, item.seeds).key == item.key

    def takes(self, item: Item, record: Record) -> bool:
        """Whether a record of the item's key is its result: one that stopped early is none where no pruner is asked."""
        search = self.study.arms[item.arm].search if item.arm in self.study.arms else None
        return record["state"] != "pruned" or search is None or search.pruner != "none"

    def task(self, item: Item) -> Task:
        """The task that an item of this study is made for; maps are made in their teacher's name."""
        if item.role != "targets":
            return Task(item.arm, item.role, item.parts)
        assert item.recipe.maps is not None
        key = (item.arm, item.recipe.maps.map_settings)
        return Task(graph.consumer(self.study, key) if key in self.state.maps else item.arm, item.role, item.parts)

    # ------------------------------------------------------------------- items
    def trial_item(self, arm: str, number: int, searched: Mapping[str, Scalar]) -> Item:
        """Trial ``number`` of the arm's search."""
        search = self.study.arms[arm].search
        return Item(
            arm=arm,
            role="search",
            recipe=self._recipe(arm, searched, self.study.seeds[0]),
            seeds=self.study.seeds[:1],
            number=number,
            adversarial=search is None or not search.match_loss_of or len(search.combinations()) > 1,
        )

    def repeat_item(self, arm: str, seeds: tuple[int, ...]) -> Item:
        """The arm's final training with ``seeds``, after its search if it has one."""
        recipe = self._recipe(arm, self.chosen(arm) or {}, seeds[0])
        return Item(arm=arm, role="repeat", recipe=recipe, seeds=seeds)

    def maps_item(self, consumer: str, seed: int) -> Item:
        """The maps, of the teacher's ``seed``, that an arm trains towards; they are made in the teacher's name."""
        maps, targets = self._maps(consumer, seed).model_copy(update={"permute": None}), self._targets(consumer)
        recipe = self._with_data(method="targets", maps=maps)
        return Item(arm=targets.teacher, role="targets", recipe=recipe, seeds=(maps.teacher_seed,))

    def checks_item(self, arm: str, seed: int) -> Item:
        """The checks of the model that the arm's repeat trained with ``seed``."""
        recipe = self._with_data(method="checks", checked=self._checked(arm, seed))
        return Item(arm=arm, role="checks", recipe=recipe, seeds=(seed,))

    def _checked(self, arm: str, seed: int) -> CheckedModel:
        assert self.study.checks is not None
        model = self._trained(arm, seed)
        found = {name: self._trained(name, seed) for name in graph.attack_sources(self.study)}
        others = {name: key for name, key in found.items() if key and key != model}
        assert model is not None
        return CheckedModel(model=model, seed=seed, sources=others, **self.study.checks.model_dump())

    def _trained(self, arm: str, seed: int) -> str | None:
        """The key of the repeat that trained the arm's model of this seed; None where there is none."""
        done = self._done_repeats(arm)
        return next((one["key"] for one in done if seed in one["seeds"] and seed not in ledger.lost_seeds(one)), None)

    def _recipe(self, name: str, searched: Mapping[str, Scalar], seed: int) -> Recipe:
        """The recipe of an arm's ``seed``: its method's defaults, its own parameters, and the searched ones."""
        arm = self.study.arms[name]
        known = registry.load_method(arm.method).parameters
        defaults = {key: parameter.default for key, parameter in known.items() if parameter.default is not None}
        maps = self._maps(name, graph.teacher_seed(self.study, arm, seed)) if arm.targets else None
        return self._with_data(method=arm.method, params=defaults | arm.params | dict(searched), maps=maps)

    def _with_data(self, **own: Any) -> Recipe:
        return Recipe.from_study(self.study, data_fingerprint=self.fingerprint, **own)

    def _targets(self, consumer: str) -> Targets:
        targets = self.study.arms[consumer].targets
        assert targets is not None
        return targets

    def _maps(self, consumer: str, seed: int) -> Maps:
        targets = self._targets(consumer)
        teacher = self._trained(targets.teacher, seed)
        assert teacher is not None
        return Maps(**targets.map_settings.model_dump(), teacher=teacher, teacher_seed=seed, permute=targets.permute)

    def _may_train(self, name: str, seed: int) -> bool:
        """Whether the teacher of the arm's ``seed``, if it has one, is there."""
        arm = self.study.arms[name]
        needed = graph.teacher_seed(self.study, arm, seed)
        return arm.targets is None or needed in self.state.repeats[arm.targets.teacher].done

    def _done_repeats(self, arm: str) -> list[Record]:
        return [record for record in self.settled_of(arm, "repeat") if record["state"] == "done"]

    # ---------------------------------------------------------------- searches
    def chosen(self, name: str) -> Mapping[str, Scalar] | None:
        """What the arm's search chose; None without a search, while it goes on, or where no trial was done.

        A choice is kept in the store: the repeats' keys rest on its last digit, whoever computes it again.
        """
        search = self.study.arms[name].search
        if search is None or not graph.is_search_over(self.study, self.state, name):
            return None
        records, reference = self.settled_of(name, "search"), self._reference(search.match_loss_of)
        basis = digest_trials(search, records, reference)
        if name not in self._choices or self._choices[name].trials != basis:
            kept = load_choice(self.store, name, self.say)
            made = kept if kept and kept.trials == basis else self._choose(name, records)
            if made is None:
                return None
            self._choices[name] = made
        return self._choices[name].params

    def _choose(self, name: str, records: list[Record]) -> Choice | None:
        search = self.study.arms[name].search
        assert search is not None
        matched = self.target(name)
        if search.match_loss_of and matched is None:
            return None
        made = choose(search, records, matched)
        if made is not None:
            self.store.write_checked(self.store.choice_file(name), made.model_dump(mode="json"))
        return made

    def _reference(self, arm: str | None) -> str | None:
        """Names the recipe whose loss is matched, or None where no seed of it is done."""
        done = self._done_repeats(arm) if arm else []
        return done[0]["recipe_key"] if done else None

    def target(self, name: str) -> Target | None:
        """The loss that the arm's search matches; None without one, or while reference or anchor are not settled."""
        search = self.study.arms[name].search
        if search is None or search.match_loss_of is None:
            return None
        needed = [arm for arm in (search.match_loss_of, search.anchor) if arm]
        if not all(graph.is_arm_over(self.study, self.state, arm) for arm in needed):
            return None
        done = self._done_repeats(search.match_loss_of)
        anchors = self._done_repeats(search.anchor) if search.anchor else []
        return Target.from_repeats(done, search.matched_metric, anchors) if done else None

    def look(self) -> None:
        """See which matches are found, so that no more of their trials start."""
        for name, arm in self.study.arms.items():
            tally = self.state.searches[name]
            if arm.search is None or arm.search.match_loss_of is None or len(tally.settled) >= arm.search.trials:
                self.state.matched.discard(name)
                continue
            rests_on = len(tally.settled), self._reference(arm.search.match_loss_of), self.target(name)
            if self._looked.get(name) != rests_on:
                self._looked[name] = rests_on
                (self.state.matched.add if self._is_found(name, arm.search) else self.state.matched.discard)(name)
            self.state.interrupted[name] = self._begun_of(name) if name in self.state.matched else set()

    def _is_found(self, name: str, search: Search) -> bool:
        """A kept choice that rests on these very trials says so too: it must not depend on the last digit either."""
        records, matched = self.settled_of(name, "search"), self.target(name)
        kept = load_choice(self.store, name, self.say)
        if kept and kept.found and kept.trials == digest_trials(search, records, self._reference(search.match_loss_of)):
            return True
        return matched is not None and may_stop_early(search, records, matched)

    def _begun_of(self, name: str) -> set[int]:
        """The trials of an arm that were begun and wait to go on."""
        tally = self.state.searches[name]
        own = [item for item in self.begun if (item.arm, item.role) == (name, "search") and tally.is_open(item.number)]
        return {item.number for item in own if self.belongs(item)}
