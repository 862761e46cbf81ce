"""The driver's view of a study: the records that count by their exact keys, and the jobs that follow from them."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from tune_interpreg import registry
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.graph import Task
from tune_interpreg.search.choice import choose, may_stop_early, read_choice
from tune_interpreg.search.target import Target
from tune_interpreg.store.store import Damaged, Record, Store
from tune_interpreg.study import measures
from tune_interpreg.study.config import Arm, MapSettings, Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Job, Judge, Maps, Train, judgments
from tune_interpreg.study.measures import Question
from tune_interpreg.study.parameters import recipe_params
from tune_interpreg.study.recipe import Recipe, TargetMaps, TeacherModel
from tune_interpreg.study.setting import arm_setting, read_params


class Progress(Current):
    """The state of a study that runs.

    Args:
        records: the whole ledger.
        notes: jobs that an earlier run started and did not finish.
        fingerprint: of the data.
        say: receives a line per damaged choice.
    """

    def __init__(
        self,
        study: Study,
        store: Store,
        records: Iterable[Record],
        notes: Iterable[Job],
        fingerprint: str,
        say: Callable[[str], object] = print,
    ):
        choices: dict[str, Mapping[str, Any]] = {}
        for name in study.arms:
            try:
                if choice := read_choice(store, name):
                    choices[name] = choice.model_dump(mode="json")
            except Damaged as error:
                say(f"{store.set_aside(error)}; {name}'s search chooses again")
        self.store, self.fingerprint, self.notes = store, fingerprint, list(notes)
        # Arm → target, number of settled trials, and the first trial that the match may not need.
        self._open_matches: dict[str, tuple[Target, int, int]] = {}
        super().__init__(study, records, choices)

    def fits(self, record: Record, name: str, fidelity: Mapping[str, Scalar] = MappingProxyType({})) -> bool:
        """Return whether the study as it is now would make exactly this training, with what it read of the teacher."""
        if not self._resembles(record, name, fidelity):
            return False
        search, recipe = self.study.arms[name].search, record["recipe"]
        searched = read_params(recipe, search.ranges) if search else {}
        if search and len(searched) < len(search.ranges):
            return False
        read = Recipe.model_validate(recipe)
        training = self._training(name, {**searched, **fidelity}, record["seed"], read.maps, read.teacher)
        return bool(record["key"] == training.key)

    def find_readers(self) -> set[str]:
        """Return the keys of the items with files that open or failed work reads: models and maps."""
        keys: set[str] = set()
        for name, arm in self.study.arms.items():
            repeats = self.state.repeats[name]
            judged = repeats.done - self.state.judgments[name].done
            models = {other for seed in judged for other in self._models_with(name, seed)}
            keys |= {key for other in models if (key := self.model_key(*other))}
            trainings = (self.trainings_of_trial(name, number) for number in self._open_trials[name])
            keys |= {training["key"] for of_trial in trainings for training in of_trial}
            for maps_key, stage in self.state.maps.items():
                if maps_key[0] == name:
                    unmade = set(graph.maps_seeds(self.study, maps_key)) - stage.done
                    keys |= {key for seed in unmade if (key := self.model_key(name, seed))}
            is_open = not (set(self.study.seeds) <= repeats.done and graph.is_search_over(self.study, self.state, name))
            if is_open:
                chosen = (self.choice(name) or {}).get("params", {})
                read: list[TargetMaps | TeacherModel | None]
                read = [self.maps_for(arm, seed, chosen) for seed in self.study.seeds]
                read += [job.recipe.maps for job in self.notes if job.arm == name]
                if arm.searches_maps or registry.load_method(arm.method).needs_teacher:
                    read += [self.teacher_for(arm, seed) for seed in self.study.seeds]
                keys |= {item.key for item in read if item}
                keys |= self._maps_of_trials(arm)
        return keys

    def _maps_of_trials(self, arm: Arm) -> set[str]:
        """Return the keys of the maps that trainings of an arm made for themselves. A later trial may read them."""
        if not arm.searches_maps or arm.teacher is None:
            return set()
        shared = {settings for _, settings in self.state.maps}
        teachers = {self.model_key(arm.teacher, graph.teacher_seed(self.study, arm, s)) for s in self.study.seeds}
        return {
            key
            for key, record in self._others.items()
            if record["kind"] == "maps"
            and record["teacher"] in teachers
            and MapSettings.model_validate(record["settings"]) not in shared
        }

    def _models_with(self, name: str, seed: int) -> list[tuple[str, int]]:
        """Return arm and seed of the models that the judgments of an arm's model read, its own first."""
        evaluation = self.study.evaluation
        sources = [(source, seed) for source in graph.attack_sources(self.study)] if evaluation.checks else []
        maps = graph.map_models(self.study).values() if evaluation.interpretability else ()
        return [(name, seed), *sources, *maps]

    # --------------------------------------------------------------------- jobs
    def can_start(self, task: Task) -> bool:
        """Return whether the parameters of a ready task are known."""
        has_search = self.study.arms[task.arm].search is not None
        return task.stage != "repeats" or not has_search or self.choice(task.arm) is not None

    def trainings_of(self, task: Task, params: Mapping[str, Scalar] | None = None) -> list[Train]:
        """Return the trainings of a task. For a trial, ``params`` holds the searched parameters, among others."""
        name, search = task.arm, self.study.arms[task.arm].search
        if task.stage == "search" and search:
            searched = {parameter: (params or {})[parameter] for parameter in search.ranges}
            seeds = self.study.seeds[: search.seeds]
            return [self.training(name, searched | search.fidelity, seed) for seed in seeds]
        if task.stage == "repeats":
            choice = self.choice(name)
            return [self.training(name, choice["params"] if choice else {}, seed) for seed in task.parts]
        return [Train.model_validate(self._read_training(self.repeats[name][seed])) for seed in task.parts]

    def job_to_train(self, task: Task, models: Iterable[Train]) -> Job:
        """Return the job that trains models, and takes the judgments that its stage needs at once."""
        questions, search = self._questions(task), self.study.arms[task.arm].search
        if task.stage == "search" and search:
            questions = [*questions, *measures.list_trial_extras(self.study, search)]
        work = [item for model in models for item in self.missing_judgments(model.key, questions)]
        return self._job(task, models, work, questions, trains=True)

    def job_without_training(self, task: Task, models: Iterable[Train]) -> Job | None:
        """Return the job that makes maps of models in the store, or their missing judgments; None without any."""
        work: list[Maps | Judge] = []
        questions: list[Question] = []
        for model in models:
            if task.maps:
                work.append(Maps(teacher=model.key, settings=task.maps))
                continue
            dependent = self.dependent_questions(task.arm, model.seed) if task.stage == "judgments" else None
            questions = [*self._questions(task), *(dependent or [])]
            work += self.missing_judgments(model.key, questions)
        return self._job(task, models, work, questions, trains=False) if work else None

    def _job(
        self, task: Task, models: Iterable[Train], work: Iterable[Maps | Judge], asked: list[Question], *, trains: bool
    ) -> Job:
        models, search = tuple(models), self.study.arms[task.arm].search
        names = {
            judgment.key: question.name
            for model in models
            for judgment, question in zip(judgments(model.key, asked), asked, strict=True)
            if question.name
        }
        return Job(
            arm=task.arm,
            stage=task.stage,
            number=_number(task),
            models=models,
            trains=trains,
            work=tuple(work),
            names=names,
            searched=tuple(search.ranges) if search else (),
            maps=self._job_of_maps(task.arm, models) if trains else None,
            observation=measures.observe(self.study, search if task.stage == "search" else None),
            batch_size=self.study.evaluation.batch_size,
        )

    def _job_of_maps(self, name: str, models: Iterable[Train]) -> Job | None:
        """Return the job that makes the maps that only these trainings of an arm read; None if there is a record."""
        arm, (first, *_) = self.study.arms[name], models
        maps = first.recipe.maps
        if not arm.searches_maps or arm.teacher is None or maps is None or maps.settings is None:
            return None
        if maps.key in self._others:
            return None
        task = Task(arm.teacher, "maps", (graph.teacher_seed(self.study, arm, first.seed),), maps.settings)
        return self.job_without_training(task, self.trainings_of(task))

    def _questions(self, task: Task) -> list[Question]:
        search = self.study.arms[task.arm].search
        if task.stage == "search" and search:
            return measures.list_trial_questions(self.study, search)
        return measures.list_repeat_questions(self.study)

    def training(self, name: str, searched: Mapping[str, Scalar], seed: int) -> Train:
        """Return the training of an arm's ``seed``: its own and the searched parameters, and defaults for the rest."""
        arm = self.study.arms[name]
        return self._training(name, searched, seed, self.maps_for(arm, seed, searched), self.teacher_for(arm, seed))

    def _training(
        self,
        name: str,
        searched: Mapping[str, Scalar],
        seed: int,
        maps: TargetMaps | None,
        teacher: TeacherModel | None,
    ) -> Train:
        arm = self.study.arms[name]
        method_params = {name: value for name, value in searched.items() if "." not in name}
        method = registry.load_method(arm.method)
        params = recipe_params(method.parameters, {**arm.params, **method_params})
        fields: dict[str, Any] = {"params": params, "maps": maps, "data_fingerprint": self.fingerprint}
        fields |= arm_setting(self.study, name, searched)._asdict()
        if method.needs_teacher:
            fields["teacher"] = teacher
        return Train(recipe=Recipe.from_study(self.study, method=arm.method, **fields), seed=seed)

    def _read_training(self, record: Record) -> dict[str, Any]:
        """Return a record's training, with this machine's folder of the data."""
        recipe = record["recipe"]
        data = recipe["data"] | {"root": self.study.data.root}
        return {"recipe": recipe | {"data": data}, "seed": record["seed"]}

    # ------------------------------------------------------------------ searches
    def choice(self, name: str) -> Mapping[str, Any] | None:
        """Return the arm's choice; make and store it if the search is over and has none.

        It is stored because the repeats' keys depend on its exact value.
        """
        choice, search = super().choice(name), self.study.arms[name].search
        if choice is not None or search is None or not graph.is_search_over(self.study, self.state, name):
            return choice
        target, bounds = self.target(name), self.bounds(name)
        if (search.matching and target is None) or bounds is None:
            return None
        new = choose(search, self.list_trials(name), target, bounds, self.reference_key(search))
        if new is None:
            return None
        content = new.model_dump(mode="json")
        self._stored_choices[name] = content
        self.store.write_checked(self.store.choice_file(name), content)
        return content

    def _update_match(self, name: str) -> None:
        """Note in the state how many trials the arm's match needs, once that is known.

        The trials of a round start if all trials before them do not settle the match, so that the number of trials
        depends on no other trial. A stored choice of these trials decides first, because a match must not depend on the
        last digit of the machine.
        """
        search, target = self.study.arms[name].search, self.target(name)
        if search is None or target is None:
            return
        settled = self.state.searches[name].settled
        before, size, number = self._open_matches.get(name, (None, -1, search.parallel))
        if before == target and (size == len(settled) or name in self.state.matched):
            return
        super()._update_match(name)
        number = number if before == target else search.parallel
        while name not in self.state.matched and number < search.trials and settled.issuperset(range(number)):
            prefix = [self.trials[name][other] for other in range(number)]
            if may_stop_early(search, prefix, target):
                self.state.matched[name] = number
            number += search.parallel
        self._open_matches[name] = target, len(settled), number

    def is_wanted(self, job: Job) -> bool:
        """Return whether the study as it is now would train exactly what a search's job trains."""
        task = Task.from_job(job)
        arm = self.study.arms.get(job.arm)
        if arm is None or arm.search is None:
            return False
        params = read_params(job.recipe.model_dump(mode="json"), arm.search.ranges)
        is_proposed = job.number is not None and job.number < arm.search.trials
        if not is_proposed or not arm.search.could_propose(params, job.number):
            return False
        if arm.teacher and self.teacher_for(arm, self.study.seeds[0]) is None:
            return False
        return [model.key for model in self.trainings_of(task, params)] == [model.key for model in job.models]


def _number(task: Task) -> int | None:
    return task.parts[0] if task.stage == "search" else None
