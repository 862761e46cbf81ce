"""Check on the driver, before anything runs, that a study's data, network and attacks fit together."""

from collections.abc import Iterator

from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, count_test_images, load_dataset
from tune_interpreg.networks.build import build
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.problems import Finding, Place, StudyError


def check_data(file: StudyFile) -> Dataset:
    """Read the data and build the network once. Raises ``StudyError`` with the place in the file."""
    study = file.study
    try:
        dataset = load_dataset(study.data)
    except DataError as error:
        place = ("data", error.key) if error.key else ("data",)
        raise StudyError([file.locate(place, error.message)]) from None
    if len(dataset.train) < study.training.batch_size:
        message = f"a batch takes {study.training.batch_size} images, but there are {len(dataset.train)} to train on"
        raise StudyError([file.locate(("training", "batch_size"), f"{message}; lower it, or raise data.train_limit")])
    problems = list(_find_evaluation_problems(study, dataset))
    if problems:
        raise StudyError([file.locate(place, message) for place, message in problems])
    try:
        build(study.model, dataset.shape, dataset.classes, seeding.generator(0, "init"))
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"{study.model.name} does not take images of shape {dataset.shape}: {error}; name another model"
        raise StudyError([file.locate(("model",), message)]) from None
    return dataset


def _find_evaluation_problems(study: Study, dataset: Dataset) -> Iterator[Finding]:
    """Find judgments that would fail after all trainings: more images than there are, an attack that cannot run."""
    evaluation, tests = study.evaluation, count_test_images(study.data)
    takes: list[tuple[Place, int | None, int | None, str]] = []
    for number, entry in enumerate(evaluation.attacks):
        place: Place = ("evaluation", "attacks", number, "autoattack")
        takes.append((place, entry.autoattack, tests, "test"))
        problem = autoattack.find_problem(study.ball_of(entry), dataset.shape) if entry.autoattack else None
        if problem:
            yield place, problem
    if evaluation.gradient_norms:
        place = ("evaluation", "gradient_norms", "images")
        takes.append((place, evaluation.gradient_norms.images, len(dataset.train), "training"))
    if evaluation.interpretability:
        takes.append((("evaluation", "interpretability", "images"), evaluation.interpretability.images, tests, "test"))
    for place, images, available, split in takes:
        if images is not None and available is not None and images > available:
            yield place, f"there are {available:,} {split} images, got {images:,}; lower it or drop it"
