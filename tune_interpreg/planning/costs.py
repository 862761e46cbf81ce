"""Seconds of a study's tasks: added up from measured times, or taken from records of similar tasks."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tune_interpreg import registry
from tune_interpreg.data.dataset import Dataset
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.schedule.progress import Progress
from tune_interpreg.study import measures
from tune_interpreg.study.config import MapSettings, Model, Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Job, Judge, Train
from tune_interpreg.study.measures import Measure, Question, SplitName
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.recipe import Recipe, TargetMaps, TeacherModel
from tune_interpreg.study.setting import Setting, arm_setting, map_settings

#: Measured seconds by unit of work. Of a judgment, per image, of the checks, per model: after ``unit_of`` its measure.
#: Per image and noisy copy of a set of maps: after ``copy_of`` its teacher's network. Of a training, after its
#: ``training_job``'s key and a slash: ``setup`` per training, ``epoch`` per epoch without its steps, ``step`` per step.
Seconds = dict[str, float]


@dataclass(frozen=True)
class Piece:
    """A piece of work that takes the same time wherever it occurs: a training, a set of maps, or a judgment.

    count: seeds that train together. model: the network.
    """

    name: str
    content: Job | MapSettings | Question = field(compare=False)
    model: Model = field(compare=False)
    count: int = 1


#: The strength of all penalties in a measurement.
STRENGTH = 0.01

#: Number of epochs of a measured training: it never reaches its final evaluation. Its learning rate keeps the weights.
ENDLESS, STANDSTILL = 10**9, 1e-9

#: Seconds that Ray adds per job, to hand it over, and per result of an epoch or of a judgment.
TASK, RESULT = 0.05, 0.01


# ------------------------------------------------------------------------ measured trainings
def training_job(study: Study, task: Task) -> Job:
    """Return the training that is measured for a task. Its key depends only on options that change the time."""
    arm = study.arms[task.arm]
    maps = TargetMaps(key="any", permute=arm.targets.permute) if arm.targets else None
    is_trial = task.stage == "search"
    searched = _typical_search(study, task.arm, is_trial)
    values, method = {**searched, **arm.params}, registry.load_method(arm.method)
    params = {name: _typical_value(parameter, values.get(name)) for name, parameter in method.parameters.items()}
    teacher = None
    if method.needs_teacher and arm.teacher:
        teacher = TeacherModel(key="any", seed=0, model=_typical_setting(study, arm.teacher).model)
    trial = arm.search if task.stage == "search" else None
    observation = measures.observe(study, trial)
    seeds = range(trial.seeds if trial else len(task.parts))
    setting = _typical_setting(study, task.arm, is_trial)._replace(train_limit=None)  # a measurement takes few batches
    fields: dict[str, Any] = {"method": arm.method, "params": params, "maps": maps, "teacher": teacher}
    return _job(study, task, setting, seeds, STANDSTILL, observation, **fields)


def probe_job(study: Study, model: Model) -> Job:
    """Return the training of a network that is judged, explained and checked in a measurement."""
    setting = Setting(model, study.training, study.attack, None)
    task = Task("probe", "repeats", (0,))
    return _job(study, task, setting, range(1), study.training.lr, measures.observe(study), method="standard")


def _typical_search(study: Study, name: str, is_trial: bool) -> dict[str, Scalar]:
    """Return a value of each parameter that an arm searches, as it is measured, and what trials do not share."""
    search = study.arms[name].search
    if search is None:
        return {}
    fidelity = search.fidelity if is_trial else {}
    return {parameter: span.middle() for parameter, span in search.ranges.items()} | fidelity


def _typical_setting(study: Study, name: str, is_trial: bool = False) -> Setting:
    return arm_setting(study, name, _typical_search(study, name, is_trial))


def _typical_value(parameter: Parameter, value: Scalar | None) -> Scalar:
    """Return the arm's own value of a choice or a count, which change the time, and a usual strength for the rest."""
    if value is not None and (parameter.choices or parameter.integer):
        return value
    return parameter.default if parameter.default is not None else min(max(STRENGTH, parameter.low), parameter.high)


def _job(
    study: Study,
    task: Task,
    setting: Setting,
    seeds: Iterable[int],
    lr: float,
    observation: measures.Observation,
    **fields: Any,
) -> Job:
    training = setting.training.model_copy(update={"epochs": ENDLESS, "lr": lr, "warmup_epochs": 0})
    recipe = Recipe.from_study(study, **setting._replace(training=training)._asdict(), **fields)
    return Job(
        arm=task.arm,
        stage=task.stage,
        models=tuple(Train(recipe=recipe, seed=seed) for seed in seeds),
        trains=True,
        observation=observation,
        batch_size=study.evaluation.batch_size,
    )


# --------------------------------------------------------------------------- pieces of a task
def pieces_of(progress: Progress, state: State, task: Task) -> Iterator[Piece]:
    """Yield what a task runs in a ``state`` that follows from the study's ``progress``."""
    study, search = progress.study, progress.study.arms[task.arm].search
    model = _typical_setting(study, task.arm).model
    if task.maps:
        yield _explaining(task.maps, model)
        return
    if task.stage == "judgments":
        questions = _open_questions(progress, state, task)
    else:
        each, untrained, questions = progress.repeat_questions, len(task.parts), list[Question]()
        if task.stage == "search" and search:
            each = measures.list_trial_questions(study, search)
            trainings = progress.trainings_of_trial(task.arm, task.parts[0])
            untrained = search.seeds - len(trainings)
            missing = [judgment for record in trainings for judgment in progress.missing_judgments(record["key"], each)]
            questions = [Question(judgment.measure, judgment.split) for judgment in missing]
        if untrained:
            job = training_job(study, task)
            observation = job.observation.model_dump(mode="json")
            fidelity = search.fidelity if search and task.stage == "search" else {}
            yield Piece(_name_training(task.arm, observation, untrained, fidelity), job, model, untrained)
            yield from _explaining_alone(study, task)
            questions += each * untrained
    for question in questions:
        yield _judging(question.measure, question.split, model)


def _open_questions(progress: Progress, state: State, task: Task) -> list[Question]:
    """Return the questions about the model of a repeat that is there, or that a trial of the search trains."""
    study, (seed,) = progress.study, task.parts
    model, search = progress.model_key(task.arm, seed), study.arms[task.arm].search
    dependent = measures.list_dependent_questions(study, {}, {}) if graph.has_other_models(study, state, seed) else []
    if model is not None:
        settled = progress.dependent_questions(task.arm, seed)
        missing = progress.missing_judgments(model, [*progress.repeat_questions, *(settled or [])])
        questions = [Question(judgment.measure, judgment.split) for judgment in missing]
        return questions if settled is not None else [*questions, *dependent]
    if search and seed not in state.waiting[task.arm]:
        answered = measures.list_trial_questions(study, search)
        return [*(question for question in progress.repeat_questions if question not in answered), *dependent]
    return dependent


def _name_training(arm: str, observation: dict[str, Any], seeds: int, fidelity: dict[str, Scalar]) -> str:
    """Return the name of a piece. A trial and a repeat of one seed take the same time if they are observed alike.

    fidelity: settings of trials that train less than repeats.
    """
    return f"training of {arm}, {seeds} seeds, {json.dumps([observation, fidelity])}"


def _explaining(settings: MapSettings, model: Model) -> Piece:
    return Piece(f"maps {settings.model_dump_json()} {model.model_dump_json()}", settings, model)


def _explaining_alone(study: Study, task: Task) -> Iterator[Piece]:
    """Yield the maps that only this training reads. Repeats share a shared teacher's with the chosen trial."""
    arm, is_trial = study.arms[task.arm], task.stage == "search"
    settings = map_settings(arm, _typical_search(study, task.arm, is_trial)) if arm.searches_maps else None
    if settings and arm.teacher and (is_trial or arm.teachers == "per_seed"):
        yield _explaining(settings, _typical_setting(study, arm.teacher).model)


def _judging(measure: Measure, split: SplitName, model: Model) -> Piece:
    settings = measure.model_dump(mode="json", exclude={"sources", "maps"})
    name = f"judgment {split} {json.dumps(settings)} {model.model_dump_json()}"
    return Piece(name, Question(measure, split), model)


def unit_of(measure: Measure, model: Model) -> str:
    """Return the name of the work that a measure of a network takes per image; of the checks, per model."""
    settings = measure.model_dump(mode="json", exclude={"images", "sources", "maps", "settings", "batch_size"})
    return f"{json.dumps(settings)} {model.model_dump_json()}"


def copy_of(model: Model) -> str:
    """Return the name of the work that the maps of a network take per image and noisy copy."""
    return f"copy {model.model_dump_json()}"


def recorded_seconds(progress: Progress) -> dict[Piece, float]:
    """Return the mean seconds of finished pieces. Results copied from an equal training took none and do not count."""
    study = progress.study
    seconds: defaultdict[Piece, list[float]] = defaultdict(list)
    for record in progress.counting_records():
        same_device = (record["device"] != "cpu") == bool(study.resources.gpus)
        is_ours = record["arm"] in study.arms  # an equal training of an arm that is gone has its judgments
        if record["state"] != "done" or not record["seconds"] or not same_device or not is_ours:
            continue
        model = _typical_setting(study, record["arm"]).model
        if record["kind"] == "train":
            search, counts, fidelity = study.arms[record["arm"]].search, {1}, {}
            if record["number"] is not None and search:
                counts, fidelity = {1, search.seeds}, search.fidelity
            elif study.resources.gpus:
                counts.add(len(study.seeds))
            for count in counts:
                name = _name_training(record["arm"], record["observation"], count, fidelity)
                piece = Piece(name, MapSettings(), model, count)
                seconds[piece].append(count * record["seconds"])
        elif record["kind"] == "maps":
            settings = MapSettings.model_validate(record["settings"])
            seconds[_explaining(settings, model)].append(record["seconds"])
        elif record["kind"] == "judge":
            judgment = Judge.model_validate({name: record[name] for name in Judge.model_fields})
            seconds[_judging(judgment.measure, judgment.split, model)].append(record["seconds"])
    return {piece: fmean(values) for piece, values in seconds.items()}


# ---------------------------------------------------------------------------- measured seconds
def add_up(study: Study, data: Dataset, tests: int, measured: Seconds, piece: Piece) -> float:
    """Return the seconds of a piece from measured ones; ``tests`` is the number of test images."""
    images = {"train": len(data.train), "validation": len(data.validation), "test": tests}
    if isinstance(piece.content, MapSettings):
        copies = piece.content.samples + piece.content.include_clean
        return images["train"] * copies * measured[copy_of(piece.model)]
    if isinstance(piece.content, Job):
        return _training(study, images, measured, piece.content)
    measure, split = piece.content.measure, piece.content.split
    seconds = measured[unit_of(measure, piece.model)]
    if isinstance(measure, measures.ChecksMeasure):
        return seconds
    return min(getattr(measure, "images", None) or images[split], images[split]) * seconds


def _training(study: Study, images: dict[str, int], measured: Seconds, job: Job) -> float:
    setting, every = _typical_setting(study, job.arm, job.stage == "search"), job.observation.every
    epochs = setting.training.epochs
    steps = (setting.train_limit or images["train"]) // setting.training.batch_size
    training = measured[f"{job.key}/setup"] + epochs * (
        measured[f"{job.key}/epoch"] + steps * measured[f"{job.key}/step"]
    )
    attacked = epochs // every if every else 0
    clean, strict = (
        measured[unit_of(measure, setting.model)] for measure in (measures.AccuracyMeasure(), job.observation.strict)
    )
    observing = images["validation"] * (epochs * clean + attacked * strict)
    return training + len(job.models) * observing


def add_ray(study: Study, pieces: Sequence[Piece]) -> float:
    """Return the seconds that Ray adds to a task: for the task, and for each epoch and judgment."""
    jobs = [piece.content for piece in pieces if isinstance(piece.content, Job)]
    epochs = sum(_typical_setting(study, job.arm, job.stage == "search").training.epochs for job in jobs)
    return TASK + RESULT * (epochs + len(pieces) - len(jobs))
