"""What of a ledger belongs to the study as it stands: trials and choices of its searches, repeats, maps and checks.

A study grows and changes, and its ledger keeps what earlier versions of it made. What counts is what `run` would take
up again, as far as that can be told without the methods' code; only, while a search goes on longer than before, the
repeats of what it chose last count until it has chosen again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tune_interpreg.study.config import Arm, Search, Study, Targets
from tune_interpreg.study.items import FORMAT

Record = dict[str, Any]
Choice = Mapping[str, Any]


class Current:
    """The records that belong to a study, by arm in its order, none of another format.

    trials: of the arm's search as it is, of any state, one a number. choices: what the searches chose, as given, where
    their own space holds it. repeats: of any state, oldest first, all of one recipe but for the teacher. maps: made of
    the arm's models. checks: of the arm's models, oldest first. others: how many done repeats of an arm do not belong,
    where some do not. foreign: how many records of an arm are of another format.
    """

    def __init__(self, study: Study, records: Iterable[Record], choices: Mapping[str, Choice] | None = None):
        self.study = study
        self.choices = {
            arm: one
            for arm, one in (choices or {}).items()
            if arm in study.arms and _is_of(one, study.arms[arm].search)
        }
        self.trials: dict[str, list[Record]] = {name: [] for name in study.arms}
        self.repeats: dict[str, list[Record]] = {name: [] for name in study.arms}
        self.foreign: Counter[str] = Counter()
        held = self._by_role(records)
        for name in study.needed_first():
            self.trials[name] = self._of_search(name, held[name, "search"])
            self.repeats[name] = self._of_arm(name, held[name, "repeat"])
        self.maps = {name: list(filter(self._is_taught, held[name, "targets"])) for name in study.arms}
        self.checks = {name: list(filter(self._is_checked, held[name, "checks"])) for name in study.arms}
        stale = {name: self._done(held[name, "repeat"]) - self._done(self.repeats[name]) for name in study.arms}
        self.others = {name: count for name, count in stale.items() if count}

    def _by_role(self, records: Iterable[Record]) -> defaultdict[tuple[str, str], list[Record]]:
        """(arm, role) → records of this format, oldest first."""
        held: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in sorted(records, key=lambda one: (str(one.get("finished")), one["key"])):
            if record["format"] == FORMAT:
                held[record["arm"], record["role"]].append(record)
            elif record["arm"] in self.study.arms:
                self.foreign[record["arm"]] += 1
        return held

    def _of_search(self, name: str, records: Sequence[Record]) -> list[Record]:
        """The trials of the arm's search; of a number that was tried twice the later one."""
        arm, search = self.study.arms[name], self.study.arms[name].search
        if search is None:
            return []
        own = {
            record["number"]: record
            for record in records
            if record["number"] < search.trials
            and record["seeds"] == [self.study.seeds[0]]
            and self._agrees(record, arm)
            and search.may_hold(record["recipe"]["params"])
            and _contradicts_nothing(record["recipe"]["params"], search.fixed(record["number"]))
            and (record["state"] != "pruned" or search.pruner != "none")
        }
        return [own[number] for number in sorted(own)]

    def _of_arm(self, name: str, records: Sequence[Record]) -> list[Record]:
        """The repeats that agree with the arm and, where its search has chosen, with the choice; of the last recipe."""
        arm, chosen = self.study.arms[name], self.choices.get(name, {}).get("params", {})
        own = [
            record
            for record in records
            if self._agrees(record, arm)
            and (arm.search is None or arm.search.may_hold(record["recipe"]["params"]))
            and _contradicts_nothing(record["recipe"]["params"], chosen)
        ]
        return [record for record in own if _without_teacher(record) == _without_teacher(own[-1])]

    def _agrees(self, record: Record, arm: Arm) -> bool:
        """Whether a training's recipe contradicts nothing that the arm fixes: method, parameters, maps and teacher."""
        recipe = record["recipe"]
        if recipe["method"] != arm.method or not _contradicts_nothing(recipe["params"], arm.params):
            return False
        maps = recipe.get("maps")
        if arm.targets is None or maps is None:
            return True
        own = {**arm.targets.maps.model_dump(), "permute": arm.targets.permute}
        seed = self._teacher_seed(arm.targets, record["seeds"][0])
        known = maps["teacher_seed"] == seed and maps["teacher"] in self._trained(arm.targets.teacher, seed)
        return known and _contradicts_nothing(maps, own)

    def _teacher_seed(self, targets: Targets, seed: int) -> int:
        return seed if targets.teachers == "per_seed" else self.study.seeds[0]

    def _trained(self, arm: str, seed: int) -> set[str]:
        """The keys of the arm's repeats that have a model of this seed."""
        return {r["key"] for r in self.repeats[arm] if r["state"] == "done" and str(seed) in r["metrics"]}

    def _is_taught(self, record: Record) -> bool:
        """Whether some arm trains towards the maps that a record made."""
        maps, taught = record["recipe"]["maps"], [arm.targets for arm in self.study.arms.values() if arm.targets]
        return any(
            targets.teacher == record["arm"]
            and maps["teacher_seed"] in {self._teacher_seed(targets, seed) for seed in self.study.seeds}
            and maps["teacher"] in self._trained(record["arm"], maps["teacher_seed"])
            and _contradicts_nothing(maps, targets.maps.model_dump())
            for targets in taught
        )

    def _is_checked(self, record: Record) -> bool:
        """Whether a record checks a model of the arm's repeats."""
        checked, repeats = record["recipe"]["checked"], self.repeats[record["arm"]]
        return checked["seed"] in self.study.seeds and checked["model"] in {repeat["key"] for repeat in repeats}

    @staticmethod
    def _done(records: Iterable[Record]) -> int:
        return sum(record["state"] == "done" for record in records)


def _is_of(choice: Choice, search: Search | None) -> bool:
    """Whether a choice can be the search's, which may have changed since."""
    return search is not None and search.may_hold(choice["params"])


def _contradicts_nothing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether all that is wanted is found so, or not at all: an older record lacks the options of a newer version."""
    return all(found.get(name, value) == value for name, value in wanted.items())


def _without_teacher(record: Record) -> Record:
    """A recipe but for the teacher: where each seed has one of its own, the seeds' recipes differ in nothing else."""
    recipe = record["recipe"]
    own = {name: value for name, value in (recipe.get("maps") or {}).items() if name not in ("teacher", "teacher_seed")}
    return {**recipe, "maps": own}
