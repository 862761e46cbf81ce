"""What a store holds of its study, read without torch and without writing: which records count, and how far all is.

The rules are those of ``progress``, but for what takes the methods' code: a record's key is taken at its word, so that
one of another version of the code or of a plugin still counts here, and `run` makes it anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State, StageParts
from tune_interpreg.search.choice import Choice, digest_trials
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.items import Item, Role
from tune_interpreg.study.recipe import FORMAT, CheckedModel, Maps


class Standing:
    """A study, and what is settled of it.

    choices: what the searches chose, by arm. Those of ``records`` that count are settled in ``state``.
    """

    def __init__(self, study: Study, records: Sequence[Record], choices: Mapping[str, Choice]):
        self.study, self.state = study, State.empty(study)
        self.chosen: dict[str, Choice] = {}  # by arms whose search is over
        self._settled: defaultdict[tuple[str, Role], list[Record]] = defaultdict(list)
        self._held: defaultdict[tuple[str, Role], list[Record]] = defaultdict(list)
        for record in records:
            if record["format"] == FORMAT and "recipe" in record:
                self._held[record["arm"], record["role"]].append(record)
        for name in study.arms_in_order():
            self._take(name, "search", self.state.searches[name])
            self._end_search(name, choices.get(name))
            self._take(name, "repeat", self.state.repeats[name])
            for key in [key for key in self.state.maps if key[0] == name]:
                self._take_maps(key)
        for name in study.arms:
            self._take(name, "checks", self.state.checks[name])

    def of(self, arm: str, role: Role) -> list[Record]:
        """The records that count of an arm, by number and seeds."""
        return sorted(self._settled[arm, role], key=lambda record: (record["number"], record["seeds"]))

    def all(self) -> list[Record]:
        """All records that count."""
        return [record for records in self._settled.values() for record in records]

    def start(self, item: Item) -> None:
        """Note that an item runs; one that the study no longer has is passed over."""
        if tally := self._tally(item):
            tally.running |= set(item.parts) - tally.settled

    def _tally(self, item: Item) -> StageParts | None:
        if item.role == "targets":
            made = [
                tally
                for key, tally in self.state.maps.items()
                if key == (item.arm, item.recipe.maps and item.recipe.maps.map_settings)
            ]
            return next(iter(made), None)
        stages = {"search": self.state.searches, "repeat": self.state.repeats, "checks": self.state.checks}
        return stages[item.role].get(item.arm)

    # --------------------------------------------------------------- what counts
    def _take(self, name: str, role: Role, tally: StageParts) -> None:
        counts = {"search": self._is_trial, "repeat": self._is_repeat, "checks": self._is_check}[role]
        for record in filter(counts, self._held[name, role]):
            self._settle(record, tally, [record["number"]] if role == "search" else record["seeds"])

    def _take_maps(self, key: graph.MapsKey) -> None:
        teacher, settings = key
        wanted = {seed: self.trained(teacher, seed) for seed in graph.maps_seeds(self.study, key)}
        for record in self._held[teacher, "targets"]:
            maps = _maps(record)
            if maps and maps.map_settings == settings and maps.teacher == wanted.get(maps.teacher_seed, ""):
                self._settle(record, self.state.maps[key], record["seeds"])

    def _settle(self, record: Record, tally: StageParts, parts: Sequence[int]) -> None:
        (tally.done if record["state"] == "done" else tally.lost).update(parts)
        self._settled[record["arm"], record["role"]].append(record)

    def _end_search(self, name: str, choice: Choice | None) -> None:
        """Note the choice of a search that is over: all trials are settled, or a match rests on those that are."""
        search, settled = self.study.arms[name].search, self.state.searches[name].settled
        if search is None or choice is None:
            return
        if search.match_loss_of:
            reference = self._reference(search.match_loss_of)
            if reference and choice.trials == digest_trials(search, self.of(name, "search"), reference):
                self.chosen[name] = choice
                self.state.matched |= {name} if choice.found and len(settled) < search.trials else set()
        elif len(settled) >= search.trials:
            self.chosen[name] = choice

    def _reference(self, arm: str) -> str | None:
        """Names the recipe whose loss is matched, or None where no seed of it is done."""
        return next((one["recipe_key"] for one in self.of(arm, "repeat") if one["state"] == "done"), None)

    def _is_trial(self, record: Record) -> bool:
        arm = self.study.arms[record["arm"]]
        if arm.search is None or record["number"] >= arm.search.trials or not self._agrees(record, arm):
            return False
        if record["seeds"] != [self.study.seeds[0]] or (record["state"] == "pruned" and arm.search.pruner == "none"):
            return False
        params = record["recipe"]["params"]
        if any(params.get(name) != value for name, value in arm.search.fixed_params(record["number"]).items()):
            return False
        return arm.search.may_contain(params)

    def _is_repeat(self, record: Record) -> bool:
        name, arm = record["arm"], self.study.arms[record["arm"]]
        if not set(record["seeds"]) <= set(self.study.seeds) or not self._agrees(record, arm):
            return False
        chosen = self.chosen[name].params if name in self.chosen else None
        params = record["recipe"]["params"]
        return arm.search is None or (chosen is not None and all(params.get(key) == chosen[key] for key in chosen))

    def _is_check(self, record: Record) -> bool:
        name, (seed,) = record["arm"], record["seeds"]
        model, wanted = self.trained(name, seed), self.study.checks
        try:
            known = CheckedModel.model_validate(record["recipe"]["checked"])
        except (KeyError, ValidationError):
            return False
        if wanted is None or model is None:
            return False
        found = {one: self.trained(one, seed) for one in graph.attack_sources(self.study)}
        others = {one: key for one, key in found.items() if key and key != model}
        return known == CheckedModel(model=model, seed=seed, sources=others, **wanted.model_dump())

    def _agrees(self, record: Record, arm: Arm) -> bool:
        """Whether method, fixed parameters and target maps of a training are the arm's."""
        recipe = record["recipe"]
        same = recipe["method"] == arm.method and all(
            recipe["params"].get(name) == one for name, one in arm.params.items()
        )
        if not same or arm.targets is None:
            return same
        seed = graph.teacher_seed(self.study, arm, record["seeds"][0])
        teacher = self.trained(arm.targets.teacher, seed)
        own = {**arm.targets.map_settings.model_dump(), "permute": arm.targets.permute}
        return teacher is not None and _maps(record) == Maps(**own, teacher=teacher, teacher_seed=seed)

    def trained(self, arm: str, seed: int) -> str | None:
        """The key of the repeat that trained the arm's model of this seed; None where there is none."""
        done = [one for one in self._settled[arm, "repeat"] if one["state"] == "done" and seed in one["seeds"]]
        return max(done, key=lambda one: one["finished"])["key"] if done else None


def _maps(record: Record) -> Maps | None:
    """The maps that a record's item made or trained towards."""
    try:
        return Maps.model_validate(record["recipe"]["maps"])
    except (KeyError, ValidationError):
        return None
