"""The one place that decides which records of a ledger count for the study as it is now.

A study grows and changes, and its ledger keeps the records of earlier versions. A record counts if `run` would take it
up again. The driver (``Progress``), `status` and the tables all use the rules below. They need no methods' code, no
torch, no Ray and no Optuna, because they compare the recipes of trainings field by field. The driver compares the exact
keys instead, so a training by another version of a plugin counts for `status` and the tables until `run` replaces it.
Maps and judgments are found by their exact keys everywhere, because these depend on the training's key.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.average import average_seeds
from tune_interpreg.schedule.graph import MapsKey, State
from tune_interpreg.search.bounds import Bounds
from tune_interpreg.search.choice import digest_trials
from tune_interpreg.search.target import Target
from tune_interpreg.store.store import Record
from tune_interpreg.study import measures
from tune_interpreg.study.config import Arm, Model, Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Job, Judge, Maps, StageName, judgments
from tune_interpreg.study.measures import Question
from tune_interpreg.study.metric_names import VAL_ADV_ACCURACY, suffixed
from tune_interpreg.study.recipe import TargetMaps, TeacherModel
from tune_interpreg.study.setting import arm_setting, dump_setting, list_settings, map_settings, read_params
from tune_interpreg.study.space import Search

#: Arm → the fields of the choice of its search.
Choices = Mapping[str, Mapping[str, Any]]


class Current:
    """The records that count for a study, and the state of the graph that follows from them.

    A training counts as the trial with its number, as the repeat of its seed, or as both. In ``trials`` and ``repeats``
    it is a copy of its record, with the metrics of the judgments of its model as well (see ``_with_judgments``).

    Args:
        study: as the store holds it, with the defaults of its methods' parameters.
        records: the whole ledger.
        choices: arm → the fields of its stored choice.
        keep_last_results: for tables, which show the last results while others are made. While a search has no valid
            choice, e.g. because it got more trials, the repeats of its last choice count, or without any choice the
            latest repeats; and the last checks of a model count.

    Attributes:
        trials: arm → number → the trial.
        repeats: arm → seed → the repeat: done, failed or diverged.
        maps: arm of the teacher → maps that were made of its models.
        checks: arm → seed → the record of the checks.
    """

    def __init__(
        self,
        study: Study,
        records: Iterable[Record] = (),
        choices: Choices | None = None,
        *,
        keep_last_results: bool = False,
    ):
        self.study, self.state = study, State.empty(study)
        self.trials: dict[str, dict[int, Record]] = {name: {} for name in study.arms}
        self.repeats: dict[str, dict[int, Record]] = {name: {} for name in study.arms}
        self.maps: dict[str, list[Record]] = {name: [] for name in study.arms}
        self.checks: dict[str, dict[int, Record]] = {name: {} for name in study.arms}
        self._stored_choices, self._keep_last_results = dict(choices or {}), keep_last_results
        self._order = study.arms_in_order()
        self.repeat_questions = measures.list_repeat_questions(study)
        self._trainings: defaultdict[str, list[Record]] = defaultdict(list)  # by arm, the oldest first
        self._fitting: defaultdict[str, list[Record]] = defaultdict(list)  # those of the arm's present recipe
        self._maps_keys: dict[tuple[str, int], str] = {}  # by arm and seed, once the teacher's model is there
        self._open_trials: defaultdict[str, set[int]] = defaultdict(set)  # numbers with a training that is not settled
        self._by_number: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)  # by arm and number
        self._settings: dict[tuple[Any, ...], dict[str, Any] | None] = {}  # by arm and searched settings
        self._others: dict[str, Record] = {}  # maps and judgments by key
        self._checks_of: dict[str, Record] = {}  # the latest checks of a model, by its key
        self._jobs: list[Job] = []  # under way
        for record in sorted(records, key=_age):
            self.add(record)
        self.update()

    # ------------------------------------------------------------------- records
    def add(self, record: Record) -> None:
        """Take a record into the ledger; ``update`` decides whether it counts."""
        arm = record["arm"]
        if record["kind"] != "train":
            is_better = record["state"] == "done"
            if is_better or record["key"] not in self._others:
                self._others[record["key"]] = record
            is_checks = record["kind"] == "judge" and record["measure"]["kind"] == "checks"
            if is_checks and (is_better or record["model"] not in self._checks_of):
                self._checks_of[record["model"]] = record
        elif arm in self.study.arms:
            self._trainings[arm].append(record)
            fits = self.fits(record, arm)
            if fits:
                self._fitting[arm].append(record)
            search = self.study.arms[arm].search
            if search is not None and search.fidelity:
                fits = self.fits(record, arm, search.fidelity)
            if fits and self._could_be_trial(record, arm):
                self._by_number[arm, record["number"]].append(record)
                self._open_trials[arm].add(record["number"])

    def update(self) -> None:
        """Settle every part that the records settle, and mark what the jobs under way run."""
        for name in self._order:
            self._update_search(name)
            self._update_repeats(name)
            self._update_maps(name)
        for name in self._order:
            self._update_judgments(name)
        self._mark_running()

    def start(self, job: Job) -> None:
        """Note that a job runs."""
        self._jobs.append(job)
        self._mark_running()

    def stop(self, job: Job) -> None:
        """Note that a job does not run any more."""
        self._jobs = [other for other in self._jobs if other is not job]
        self._mark_running()

    def records_by_stage(self, name: str) -> Iterator[tuple[StageName, Record]]:
        """Yield the records of an arm that count, each with its stage. A training may be of two stages."""
        for trial in self.list_trials(name):
            yield from (("search", training) for training in trial["trainings"])
            yield from (("search", self._others[key]) for key in trial["judged"])
        yield from (("repeats", repeat["training"]) for repeat in self.repeats[name].values())
        yield from (("maps", record) for record in self.maps[name])
        for repeat in self.repeats[name].values():
            yield from (("judgments", self._others[key]) for key in repeat["judged"])

    def judged_trainings(self, name: str) -> Iterator[tuple[StageName, Record]]:
        """Yield the trainings of an arm that count, each with its stage and the metrics of its model's judgments.

        A training may be of two stages.
        """
        search = self.study.arms[name].search
        for trial in self.list_trials(name):
            assert search is not None
            yield from (("search", self._trial_of_seed(training, search)) for training in trial["trainings"])
        yield from (("repeats", repeat) for _, repeat in sorted(self.repeats[name].items()))

    def counting_records(self) -> list[Record]:
        """Return all records that count."""
        records = (record for name in self.study.arms for _, record in self.records_by_stage(name))
        return list({id(record): record for record in records}.values())

    def seconds_of_parts(self, name: str) -> dict[StageName, list[float]]:
        """Return the seconds that each settled part of an arm took, by stage, without copies of other results.

        The judgments of a model count as soon as only those are missing that wait for other models.
        """
        judgments = self.seconds_of_judgments(name)
        seconds: dict[StageName, list[float]] = {
            "search": [trial["seconds"] + self._seconds_of(trial["judged"]) for trial in self.list_trials(name)],
            "repeats": [repeat["seconds"] for repeat in self.repeats[name].values()],
            "maps": [record["seconds"] for record in self.maps[name]],
            "judgments": [judgments[seed] for seed in self.state.judgments[name].settled | self.state.waiting[name]],
        }
        return {stage: [length for length in lengths if length] for stage, lengths in seconds.items()}

    def seconds_of_judgments(self, name: str) -> dict[int, float]:
        """Return by seed the seconds that the judgments of an arm's model have taken so far."""
        return {seed: self._seconds_of(repeat["judged"]) for seed, repeat in self.repeats[name].items()}

    def _seconds_of(self, keys: Iterable[str]) -> float:
        return sum(self._others[key]["seconds"] for key in keys)

    @property
    def outdated(self) -> Counter[str]:
        """Return the number of finished repeats that do not count, per arm."""
        counting = {id(record) for record in self.counting_records()}
        return Counter(
            name
            for name in self.study.arms
            for record in self._trainings[name]
            if record["state"] == "done" and record["number"] is None and id(record) not in counting
        )

    def _with_judgments(self, training: Record, questions: list[Question]) -> Record:
        """Return a copy of a training with the answers to questions about its model.

        ``metrics`` holds those of the judgments, too. ``images``: metric → number of images behind it. ``training``:
        the record itself. ``judged``: keys of the judgments. ``is_complete``: whether every question has a record.
        ``is_lost``: whether the record of one says that it was given up.
        """
        asked = questions if training["state"] == "done" else []
        records = [self._others.get(judgment.key) for judgment in judgments(training["key"], asked)]
        answers = [(question, record) for question, record in zip(asked, records, strict=True) if record is not None]
        made = {**training, "training": training, "metrics": dict(training["metrics"])}
        made["images"] = dict.fromkeys(training["metrics"], training["images"].get("train", 0))
        for question, record in answers:
            metrics = {suffixed(metric, question.name): value for metric, value in record["metrics"].items()}
            made["metrics"] |= metrics
            made["images"] |= dict.fromkeys(metrics, record["images"].get(question.split, 0))
        made["judged"] = [record["key"] for _, record in answers]
        made["is_complete"] = len(answers) == len(asked)
        made["is_lost"] = any(record["state"] != "done" for _, record in answers)
        return made

    # ------------------------------------------------------------------- stages
    def _update_search(self, name: str) -> None:
        search, trials = self.study.arms[name].search, self.state.searches[name]
        if search is None:
            return
        for number in sorted(self._open_trials[name]):
            trainings = self.trainings_of_trial(name, number)
            if len(trainings) < search.seeds:
                continue
            trial = average_seeds([self._trial_of_seed(training, search) for training in trainings])
            if trial["is_complete"]:
                self.trials[name][number] = trial
                self._open_trials[name].discard(number)
                (trials.done if trial["state"] == "done" and not trial["is_lost"] else trials.lost).add(number)
        self._update_match(name)

    def _trial_of_seed(self, training: Record, search: Search) -> Record:
        """Return a training of a trial with the judgments of its model."""
        trial = self._with_judgments(training, measures.list_trial_questions(self.study, search))
        if training["observation"] != measures.observe(self.study, search).model_dump(mode="json"):
            # A pruner must not compare accuracies under different attacks.
            curve = training.get("curve", [])
            trial["curve"] = [{k: v for k, v in epoch.items() if k != VAL_ADV_ACCURACY} for epoch in curve]
        extras = self._with_judgments(training, measures.list_trial_extras(self.study, search))
        return trial | {"metrics": extras["metrics"] | trial["metrics"]}

    def _update_repeats(self, name: str) -> None:
        repeats = self.state.repeats[name]
        if len(repeats.settled) == len(self.study.seeds):
            return
        for seed, training in self._find_repeats(name).items():
            self.repeats[name][seed] = self._with_judgments(training, self.repeat_questions)
            (repeats.done if training["state"] == "done" else repeats.lost).add(seed)

    def _update_maps(self, teacher: str) -> None:
        for key, stage in self.state.maps.items():
            for seed in graph.maps_seeds(self.study, key) if key[0] == teacher else ():
                item = self.maps_item(key, seed)
                record = self._others.get(item.key) if item and seed not in stage.settled else None
                if record is not None:
                    self.maps[teacher].append(record)
                    (stage.done if record["state"] == "done" else stage.lost).add(seed)

    def _update_judgments(self, name: str) -> None:
        repeats, stage = self.state.repeats[name], self.state.judgments[name]
        for seed in repeats.done - stage.settled:
            training, dependent = self.repeats[name][seed]["training"], self.dependent_questions(name, seed)
            made = self._with_judgments(training, [*self.repeat_questions, *(dependent or [])])
            self.repeats[name][seed] = made
            checks = self._find_checks(training["key"], dependent or [])
            if checks is not None:
                self.checks[name][seed] = checks
                made["judged"] = list(dict.fromkeys([*made["judged"], checks["key"]]))  # it may be of an earlier study
            if made["is_complete"] and dependent is not None:
                (stage.lost if made["is_lost"] else stage.done).add(seed)
            elif made["is_complete"] or self._with_judgments(training, self.repeat_questions)["is_complete"]:
                self.state.waiting[name].add(seed)

    def _mark_running(self) -> None:
        for stage in self.state.all_stages():
            stage.running.clear()
        for job in self._jobs:
            for stage, parts in self.stages_of(job):
                stage.running |= set(parts) - stage.settled

    def stages_of(self, job: Job) -> Iterator[tuple[graph.StageParts, set[int]]]:
        """Yield the stages with the parts that a job works on now: repeats are judged after they are trained."""
        parts = set(job.parts)
        if job.arm not in self.study.arms:
            return
        if job.stage == "repeats":
            repeats = self.state.repeats[job.arm]
            yield repeats, parts
            yield self.state.judgments[job.arm], parts & repeats.done
        else:
            try:
                yield self.state.stage_of(graph.Task.from_job(job)), parts
            except KeyError:  # maps that the study no longer needs
                return

    # -------------------------------------------------------------- which trainings count
    def trainings_of_trial(self, name: str, number: int) -> list[Record]:
        """Return the trainings of the latest recipe with this number that the search could propose now, by seed."""
        records = [record for record in self._by_number[name, number] if self._has_present_teacher(record, name)]
        by_seed = {record["seed"]: record for record in records if record["recipe_key"] == records[-1]["recipe_key"]}
        return [by_seed[seed] for seed in self.study.seeds if seed in by_seed]

    def _could_be_trial(self, record: Record, name: str) -> bool:
        search, number = self.study.arms[name].search, record["number"]
        if search is None or number is None or number >= search.trials:
            return False
        if record["seed"] not in self.study.seeds[: search.seeds]:
            return False
        params = read_params(record["recipe"], search.ranges)
        return search.could_propose(params, number) and self.accepts(record, name)

    def accepts(self, record: Record, name: str) -> bool:
        """Return whether a training of this state can be a trial: a pruned one needs the pruner that saw the same."""
        if record["state"] != "pruned":
            return True
        search = self.study.arms[name].search
        if search is None or search.pruner == "none":
            return False
        return bool(record["observation"] == measures.observe(self.study, search).model_dump(mode="json"))

    def _find_repeats(self, name: str) -> dict[int, Record]:
        """Return seed → the training that counts as the repeat, for seeds that are not settled.

        Repeats of one arm share a recipe; of several versions of a plugin, the latest counts.
        """
        search, choice = self.study.arms[name].search, self.choice(name)
        if search is not None and choice is None and not self._keep_last_results:
            return {}
        chosen: Mapping[str, Scalar] = choice["params"] if choice else {}
        open_seeds = set(self.study.seeds) - self.state.repeats[name].settled
        counting = [
            record
            for record in self._fitting[name]
            if record["seed"] in open_seeds
            and record["state"] != "pruned"
            and read_params(record["recipe"], chosen) == chosen
            and (search is None or search.could_propose(read_params(record["recipe"], search.ranges)))
            and self._has_present_teacher(record, name)
        ]
        # Without a choice, a training with a number is a repeat only if others with its recipe have none.
        repeats = [record for record in counting if record["number"] is None or choice is not None or search is None]
        last = _without_teacher(repeats[-1]) if repeats else None
        return {record["seed"]: record for record in counting if _without_teacher(record) == last}

    def fits(self, record: Record, name: str, fidelity: Mapping[str, Scalar] = MappingProxyType({})) -> bool:
        """Return whether a training has the method, parameters and setting of an arm, and no other parameters.

        fidelity: settings of trials, if these differ from the repeats'.
        """
        arm = self.study.arms[name]
        accepted = arm.params.keys() | (arm.search.ranges.keys() if arm.search else set())
        return self._resembles(record, name, fidelity) and record["recipe"]["params"].keys() <= accepted

    def _resembles(self, record: Record, name: str, fidelity: Mapping[str, Scalar]) -> bool:
        """Return whether a training has the method, fixed parameters, setting and kinds of input of an arm."""
        arm, recipe = self.study.arms[name], record["recipe"]
        if recipe["method"] != arm.method or not arm.params.items() <= recipe["params"].items():
            return False
        searched = read_params(recipe, arm.search.ranges) if arm.search else {}
        if list_settings(recipe) != self._list_settings(name, {**searched, **fidelity}):
            return False
        if arm.targets is None:  # else the method decides whether the model teaches as well as its maps
            return recipe["maps"] is None and (recipe.get("teacher") is None) == (arm.teacher is None)
        return recipe["maps"] is not None and recipe["maps"]["permute"] == arm.targets.permute

    def _list_settings(self, name: str, searched: Mapping[str, Scalar]) -> dict[str, Any] | None:
        """Return the settings of an arm's trainings with these searched parameters; None if a section refuses one."""
        place = name, *(pair for pair in searched.items() if "." in pair[0])
        if place not in self._settings:
            try:
                self._settings[place] = dump_setting(arm_setting(self.study, name, searched))
            except ValidationError:
                self._settings[place] = None
        return self._settings[place]

    def _has_present_teacher(self, record: Record, name: str) -> bool:
        """Return whether a training reads the maps of the teacher's present model, or this model, if it reads any."""
        arm, place, recipe = self.study.arms[name], (name, record["seed"]), record["recipe"]
        if arm.teacher is None:
            return True
        model = self.model_key(arm.teacher, graph.teacher_seed(self.study, arm, record["seed"]))
        if recipe.get("teacher") and recipe["teacher"]["key"] != model:
            return False
        if arm.targets is None:
            return True
        if arm.searches_maps and arm.search:
            expected = self.maps_for(arm, record["seed"], read_params(recipe, arm.search.ranges))
            return expected is not None and bool(recipe["maps"]["key"] == expected.key)
        if place not in self._maps_keys and (maps := self.maps_for(arm, record["seed"])):
            self._maps_keys[place] = maps.key
        return bool(recipe["maps"]["key"] == self._maps_keys.get(place))

    # ------------------------------------------------------------------ models and maps
    def model_key(self, arm: str, seed: int) -> str | None:
        """Return the key of the training of the arm's model of this seed; None without one."""
        record = self.repeats[arm].get(seed)
        return record["key"] if record is not None and record["state"] == "done" else None

    def maps_item(self, key: MapsKey, seed: int) -> Maps | None:
        """Return the item that makes maps with the teacher's model of this seed; None before the model is there."""
        teacher = self.model_key(key[0], seed)
        return Maps(teacher=teacher, settings=key[1]) if teacher else None

    def maps_for(self, arm: Arm, seed: int, searched: Mapping[str, Scalar] = MappingProxyType({})) -> TargetMaps | None:
        """Return the maps that an arm's ``seed`` trains towards; None before the teacher's model is there.

        searched: the searched parameters of the training, which may be settings of the maps.
        """
        settings = map_settings(arm, searched)
        if settings is None or arm.teacher is None or arm.targets is None:
            return None
        item = self.maps_item((arm.teacher, settings), graph.teacher_seed(self.study, arm, seed))
        if item is None:
            return None
        recorded = settings if arm.searches_maps else None
        return TargetMaps(key=item.key, permute=arm.targets.permute, settings=recorded)

    def teacher_for(self, arm: Arm, seed: int) -> TeacherModel | None:
        """Return the model that teaches an arm's ``seed``; None without a teacher, or before its model is there."""
        if arm.teacher is None:
            return None
        record = self.repeats[arm.teacher].get(graph.teacher_seed(self.study, arm, seed))
        if record is None or record["state"] != "done":
            return None
        network = Model.model_validate(record["recipe"]["model"])
        return TeacherModel(key=record["key"], seed=record["seed"], model=network)

    def dependent_questions(self, name: str, seed: int) -> list[Question] | None:
        """Return what is asked about a model that is there, and other models; None before these are settled."""
        model = self.model_key(name, seed)
        if model is None or not graph.has_other_models(self.study, self.state, seed):
            return None
        sources = {arm: self.model_key(arm, seed) for arm in graph.attack_sources(self.study)}
        maps = {label: self.model_key(*robust) for label, robust in graph.map_models(self.study).items()}
        others = [{label: key for label, key in keys.items() if key and key != model} for keys in (sources, maps)]
        return measures.list_dependent_questions(self.study, *others)

    def _find_checks(self, model: str, questions: list[Question]) -> Record | None:
        """Return the record of a model's checks; for tables, the last one if the questions are others now."""
        keys = [item.key for item in judgments(model, questions) if item.measure.kind == "checks"]
        record = next((self._others[key] for key in keys if key in self._others), None)
        if record is None and self._keep_last_results and self.study.evaluation.checks:
            return self._checks_of.get(model)
        return record

    def missing_judgments(self, model: str, questions: list[Question]) -> list[Judge]:
        """Return the judgments of a model that have no record."""
        asked = {judgment.key: judgment for judgment in judgments(model, questions)}  # entries may ask the same
        return [judgment for key, judgment in asked.items() if key not in self._others]

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
        trials = digest_trials(search, self.list_trials(name), self.reference_key(search))
        return bool(stored["trials"] == trials)

    @property
    def choices(self) -> dict[str, Mapping[str, Any]]:
        """Arm → the fields of the choice that counts."""
        return {name: choice for name in self.study.arms if (choice := self.choice(name)) is not None}

    def list_trials(self, name: str) -> list[Record]:
        """Return the settled trials of an arm's search, by number."""
        return [trial for _, trial in sorted(self.trials[name].items())]

    def finished_repeats(self, name: str) -> dict[int, Record]:
        """Return seed → the repeat of an arm, for the seeds with a model, in the study's order."""
        repeats = self.repeats[name]
        return {seed: repeats[seed] for seed in self.study.seeds if self.model_key(name, seed)}

    def target(self, name: str) -> Target | None:
        """Return the metric that the arm's search matches, once its reference and its anchor are over, and judged."""
        search = self.study.arms[name].search
        if search is None or search.matching is None:
            return None
        if not all(graph.is_arm_over(self.study, self.state, arm) for arm in search.matching_arms):
            return None
        if not all(graph.is_judged(self.state, arm) for arm in search.judged_arms):
            return None
        done = [*self.finished_repeats(search.matching.arm).values()]
        anchors = [*self.finished_repeats(search.anchor).values()] if search.anchor else []
        target = Target.from_repeats(done, search.matched_metric, anchors) if done else None
        return target and replace(target, noise=target.noise / math.sqrt(search.seeds))  # of a trial's mean

    def has_match(self, name: str) -> bool:
        """Return whether the stored choice says that the settled trials of the arm's match are enough."""
        return bool(self._stored_choices.get(name, {}).get("found")) and self._is_choice_valid(name)

    def bounds(self, name: str) -> Bounds | None:
        """Return the least values that the arm's search asks for, once the arms that it compares with are judged."""
        search = self.study.arms[name].search
        if search is None or not all(graph.is_judged(self.state, other) for other in search.bounding_arms):
            return None
        repeats = {other: [*self.finished_repeats(other).values()] for other in search.bounding_arms}
        return Bounds.from_repeats(search, repeats)

    def reference_key(self, search: Search) -> str | dict[str, str] | None:
        """Return the key of the recipe with the loss to match, or the keys of those behind ``where``, by metric.

        None without any, or without a finished seed.
        """
        if search.where:
            references = {metric: condition.of for metric, condition in search.where.items() if condition.of}
            repeats = {metric: self.finished_repeats(other) for metric, other in references.items()}
            return {m: next(iter(done.values()))["recipe_key"] for m, done in repeats.items() if done} or None
        done = self.finished_repeats(search.matching.arm) if search.matching else {}
        return next((record["recipe_key"] for record in done.values()), None)

    def _update_match(self, name: str) -> None:
        """Note in the state how many trials the arm's match needs, once that is known."""
        search, settled = self.study.arms[name].search, self.state.searches[name].settled
        self.state.matched.pop(name, None)
        if search is not None and len(settled) < search.trials and self.has_match(name):
            self.state.matched[name] = len(settled)


def _age(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return a sort key that puts older records first."""
    return str(record["finished"]), record["key"]


def _without_teacher(record: Record) -> Record:
    """Return a recipe without its maps and teacher: with a teacher per seed, repeats differ in nothing else."""
    return {**record["recipe"], "maps": None, "teacher": None}
