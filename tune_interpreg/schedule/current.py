"""The one place that decides which records of a ledger count for the study as it is now.

A study grows and changes, and its ledger keeps the records of earlier versions. A record counts if `run` would take it
up again. The driver (``Progress``), `status` and the tables all use the rules below. They need no methods' code, no
torch, no Ray and no Optuna, because they compare recipes field by field. The driver compares the exact keys on top, so
a record made by another version of a plugin counts for `status` and the tables until `run` replaces it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.search.choice import digest_trials
from tune_interpreg.search.target import Target
from tune_interpreg.store.ledger import lost_seeds
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.items import Item, Role
from tune_interpreg.study.recipe import FORMAT, CheckedModel, Maps
from tune_interpreg.study.space import Search

#: Arm → the fields of the choice of its search.
Choices = Mapping[str, Mapping[str, Any]]


class Current:
    """The records that count for a study, and the state of the graph that follows from them.

    Args:
        study: as the store holds it, with the defaults of its methods' parameters.
        choices: arm → the fields of its stored choice.
        keep_last_results: for tables, which show the last results while others are made. While a search has no valid
            choice, e.g. because it got more trials, the repeats of its last choice count, or without any choice the
            latest repeats; and all checks of the arm's models count.
    """

    def __init__(self, study: Study, choices: Choices | None = None, *, keep_last_results: bool = False):
        self.study, self.state = study, State.empty(study)
        self.foreign: Counter[str] = Counter()  # records of another format, per arm
        self.outdated: Counter[str] = Counter()  # finished repeats that do not count, per arm
        self._stored_choices = dict(choices or {})
        self._keep_last_results = keep_last_results
        self._settled: defaultdict[tuple[str, Role], list[Record]] = defaultdict(list)

    @classmethod
    def from_records(
        cls, study: Study, records: Iterable[Record], choices: Choices | None = None, *, keep_last_results: bool = False
    ) -> Current:
        """Settle all records of a ledger that count, each after the records that it depends on."""
        current = cls(study, choices, keep_last_results=keep_last_results)
        by_stage: defaultdict[tuple[str, Role], list[Record]] = defaultdict(list)
        for record in sorted(records, key=_age):
            if record["arm"] in study.arms and record["format"] != FORMAT:
                current.foreign[record["arm"]] += 1
            elif record["arm"] in study.arms and "recipe" in record:
                by_stage[record["arm"], record["role"]].append(record)
        for name in study.arms_in_order():
            current._settle_counting(by_stage[name, "search"])
            current._update_match(name)
            repeats = [record for record in by_stage[name, "repeat"] if current.counts(record)]
            # Repeats of one arm share a recipe; of several versions of a plugin, the latest counts.
            latest = [record for record in repeats if _without_teacher(record) == _without_teacher(repeats[-1])]
            for record in latest:
                current.settle(record)
            done = [record for record in by_stage[name, "repeat"] if record["state"] == "done"]
            current.outdated += Counter({name: sum(record not in latest for record in done)})
            current._settle_counting(by_stage[name, "targets"])
        for name in study.arms:
            current._settle_counting(by_stage[name, "checks"])
        return current

    # ------------------------------------------------------------------- records
    def settle(self, record: Record) -> None:
        """Take a record that counts into the state."""
        maps = _read_maps(record) if record["role"] == "targets" else None
        stage = self.state.stage_of(Task(record["arm"], record["role"], (), maps and maps.map_settings))
        parts = {record["number"]} if record["role"] == "search" else set(record["seeds"])
        lost = lost_seeds(record) if record["state"] == "done" else parts
        stage.running -= parts
        stage.done |= parts - lost
        stage.lost |= lost
        self._settled[record["arm"], record["role"]].append(record)

    def start(self, item: Item) -> None:
        """Note in the state that an item runs; an item that the study no longer has is ignored."""
        with suppress(KeyError):
            stage = self.state.stage_of(Task.from_item(item))
            stage.running |= set(item.parts) - stage.settled

    def records_of(self, arm: str, role: Role) -> list[Record]:
        """Return the records of an arm that count, by number and seeds."""
        return sorted(self._settled[arm, role], key=lambda record: (record["number"], record["seeds"], record["key"]))

    def all_records(self) -> list[Record]:
        """Return all records that count."""
        return [record for records in self._settled.values() for record in records]

    def model_key(self, arm: str, seed: int) -> str | None:
        """Return the key of the repeat that trained the arm's model of this seed, the latest one; None without one."""
        done = [record for record in self._settled[arm, "repeat"] if record["state"] == "done"]
        trained = [record for record in done if seed in record["seeds"] and seed not in lost_seeds(record)]
        return max(trained, key=_age)["key"] if trained else None

    def _done_repeats(self, arm: str) -> list[Record]:
        return [record for record in self.records_of(arm, "repeat") if record["state"] == "done"]

    def _settle_counting(self, records: Sequence[Record]) -> None:
        for record in records:
            if self.counts(record):
                self.settle(record)

    # ---------------------------------------------------------------- what counts
    def counts(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record of this ``FORMAT``, or an item as JSON, belongs to the study as it is now.

        Depends on what is settled: settle an arm's trials before its repeats, and a teacher's repeats before its maps
        and its pupils.
        """
        arm = self.study.arms.get(record["arm"])
        if arm is None or not self.accepts_state(record["arm"], record.get("state")):
            return False
        if record["role"] == "targets":
            return self._counts_maps(record)
        if record["role"] == "checks":
            return self._counts_checks(record)
        if record["role"] == "search":
            return self._counts_trial(record, arm) and self._agrees(record, arm)
        return self._counts_repeat(record, arm) and self._agrees(record, arm)

    def accepts_state(self, arm: str, state: str | None) -> bool:
        """Return whether a result of this state can be one of the arm: a pruned trial needs a pruner."""
        search = self.study.arms[arm].search if arm in self.study.arms else None
        return state != "pruned" or search is None or search.pruner != "none"

    def _counts_trial(self, record: Mapping[str, Any], arm: Arm) -> bool:
        search, number = arm.search, record["number"]
        if search is None or number >= search.trials or record["seeds"] != [self.study.seeds[0]]:
            return False
        return search.could_propose(record["recipe"]["params"], number)

    def _counts_repeat(self, record: Mapping[str, Any], arm: Arm) -> bool:
        if not set(record["seeds"]) <= set(self.study.seeds):
            return False
        if arm.search is None:
            return True
        choice, params = self.choice(record["arm"]), record["recipe"]["params"]
        if choice is None:
            return self._keep_last_results and arm.search.could_propose(params)
        return all(params.get(name) == value for name, value in choice["params"].items())

    def _counts_maps(self, record: Mapping[str, Any]) -> bool:
        maps = _read_maps(record)
        if maps is None:
            return False
        key, seed = (record["arm"], maps.map_settings), maps.teacher_seed
        is_needed = key in self.state.maps and seed in graph.maps_seeds(self.study, key)
        return is_needed and maps.teacher == self.model_key(record["arm"], seed)

    def _counts_checks(self, record: Mapping[str, Any]) -> bool:
        name, (seed,) = record["arm"], record["seeds"]
        model = self.model_key(name, seed)
        if seed not in self.study.seeds or model is None:
            return False
        try:
            checked = CheckedModel.model_validate(record["recipe"]["checked"])
        except ValidationError:
            return False
        if self._keep_last_results:
            return (checked.model, checked.seed) == (model, seed)
        return graph.can_check(self.study, self.state, name, seed) and checked == self.checked_model(name, seed)

    def _agrees(self, record: Mapping[str, Any], arm: Arm) -> bool:
        """Return whether method, fixed parameters and target maps of a training are those of the arm."""
        recipe = record["recipe"]
        if recipe["method"] != arm.method:
            return False
        if any(recipe["params"].get(name) != value for name, value in arm.params.items()):
            return False
        if arm.targets is None:
            return recipe.get("maps") is None
        maps = _read_maps(record)
        return maps is not None and maps == self.maps_for(record["arm"], record["seeds"][0])

    def maps_for(self, name: str, seed: int) -> Maps | None:
        """Return the maps that the arm's ``seed`` trains towards; None before the teacher's model is there."""
        arm = self.study.arms[name]
        assert arm.targets is not None
        needed = graph.teacher_seed(self.study, arm, seed)
        teacher = self.model_key(arm.targets.teacher, needed)
        if teacher is None:
            return None
        settings = arm.targets.map_settings.model_dump()
        return Maps(**settings, teacher=teacher, teacher_seed=needed, permute=arm.targets.permute)

    def checked_model(self, name: str, seed: int) -> CheckedModel:
        """Return what the checks of the arm's ``seed`` read. Its model must be there."""
        model = self.model_key(name, seed)
        assert model is not None
        assert self.study.checks is not None
        sources = {source: self.model_key(source, seed) for source in graph.attack_sources(self.study)}
        others = {source: key for source, key in sources.items() if key and key != model}
        return CheckedModel(model=model, seed=seed, sources=others, **self.study.checks.model_dump())

    # ------------------------------------------------------------------ searches
    def choice(self, name: str) -> Mapping[str, Any] | None:
        """Return the fields of the arm's stored choice if the search is over and its trials are those of the choice."""
        search, stored = self.study.arms[name].search, self._stored_choices.get(name)
        if self._keep_last_results:
            return stored if search and stored and search.could_propose(stored["params"]) else None
        return stored if graph.is_search_over(self.study, self.state, name) and self._is_choice_valid(name) else None

    def _is_choice_valid(self, name: str) -> bool:
        """Return whether the arm's stored choice was made from the trials that are settled now."""
        search, stored = self.study.arms[name].search, self._stored_choices.get(name)
        if search is None or stored is None:
            return False
        trials = digest_trials(search, self.records_of(name, "search"), self.reference_key(search))
        return bool(stored["trials"] == trials)

    def target(self, name: str) -> Target | None:
        """Return the loss that the arm's search matches, once its reference and its anchor are over."""
        search = self.study.arms[name].search
        if search is None or search.match_loss_of is None:
            return None
        needed = [arm for arm in (search.match_loss_of, search.anchor) if arm]
        if not all(graph.is_arm_over(self.study, self.state, arm) for arm in needed):
            return None
        done = self._done_repeats(search.match_loss_of)
        anchors = self._done_repeats(search.anchor) if search.anchor else []
        return Target.from_repeats(done, search.matched_metric, anchors) if done else None

    def has_match(self, name: str) -> bool:
        """Return whether the stored choice says that the settled trials of the arm's match are enough."""
        return bool(self._stored_choices.get(name, {}).get("found")) and self._is_choice_valid(name)

    def reference_key(self, search: Search) -> str | None:
        """Return the key of the recipe with the loss to match; None without a finished seed of it."""
        done = self._done_repeats(search.match_loss_of) if search.match_loss_of else []
        return done[0]["recipe_key"] if done else None

    def _update_match(self, name: str) -> None:
        """Note in the state whether the arm's match needs no further trials."""
        search = self.study.arms[name].search
        is_short = search is not None and len(self.state.searches[name].settled) < search.trials
        if is_short and self.has_match(name):
            self.state.matched.add(name)
        else:
            self.state.matched.discard(name)

    # --------------------------------------------------------- views of a whole ledger
    @cached_property
    def choices(self) -> dict[str, Mapping[str, Any]]:
        """Arm → the fields of the choice that counts."""
        return {name: choice for name in self.study.arms if (choice := self.choice(name)) is not None}

    @cached_property
    def trials(self) -> dict[str, list[Record]]:
        """Arm → the trials of its search by number; of a number that was tried twice, the later trial."""
        latest = {name: {trial["number"]: trial for trial in trials} for name, trials in self._by_arm("search").items()}
        return {name: [trial for _, trial in sorted(trials.items())] for name, trials in latest.items()}

    @cached_property
    def repeats(self) -> dict[str, list[Record]]:
        """Arm → its repeats, the oldest first."""
        return self._by_arm("repeat")

    @cached_property
    def maps(self) -> dict[str, list[Record]]:
        """Arm → the maps made of its models, the oldest first."""
        return self._by_arm("targets")

    @cached_property
    def checks(self) -> dict[str, list[Record]]:
        """Arm → the checks of its models, the oldest first."""
        return self._by_arm("checks")

    def _by_arm(self, role: Role) -> dict[str, list[Record]]:
        return {name: sorted(self._settled[name, role], key=_age) for name in self.study.arms}


def _age(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return a sort key that puts older records first."""
    return str(record.get("finished")), record["key"]


def _read_maps(record: Mapping[str, Any]) -> Maps | None:
    """Return the maps that a record's item made or trained towards."""
    try:
        return Maps.model_validate(record["recipe"]["maps"])
    except (KeyError, ValidationError):
        return None


def _without_teacher(record: Record) -> Record:
    """Return a recipe without its teacher: with a teacher per seed, the repeats of an arm differ in nothing else."""
    recipe = record["recipe"]
    return {**recipe, "maps": {**(recipe.get("maps") or {}), "teacher": None, "teacher_seed": None}}
