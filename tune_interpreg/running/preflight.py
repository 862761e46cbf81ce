"""Check on the driver, before anything runs, that a study's data, network and attacks fit together.

A ``StudyError`` names the place in the file. Its cause is the exception of a user's code, if there was one.
"""

from collections.abc import Iterator

from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, Source, load_and_check, to_pixels
from tune_interpreg.networks.build import IMAGES, build, describe_gradients
from tune_interpreg.networks.vetting import NetworkError
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.problems import Finding, Place, StudyError


def check_data(file: StudyFile) -> Dataset:
    """Read the data. Raises ``StudyError`` if it does not suit the study."""
    study = file.study
    try:
        dataset = load_and_check(study.data)
    except DataError as error:
        place = ("data", error.key) if error.key else ("data",)
        raise StudyError([file.locate(place, error.message)]) from error.__cause__
    if len(dataset.train) < study.training.batch_size:
        message = f"a batch takes {study.training.batch_size} images, but there are {len(dataset.train)} to train on"
        raise StudyError([file.locate(("training", "batch_size"), f"{message}; lower it, or raise data.train_limit")])
    problems = list(_find_evaluation_problems(study, dataset))
    if problems:
        raise StudyError([file.locate(place, message) for place, message in problems])
    return dataset


def check_network(file: StudyFile, data: Dataset | Source) -> str:
    """Build and check the network, with training images if they are read; see ``describe_gradients`` for the result.

    Raises ``StudyError`` if it cannot be trained.
    """
    model, seed = file.study.model, file.study.seeds[0]
    images_BCHW = to_pixels(data.train.x_NCHW[:IMAGES]) if isinstance(data, Dataset) else None
    try:
        network = build(model, data.shape, data.classes, seed, images_BCHW=images_BCHW)
    except NetworkError as error:
        raise StudyError([file.locate(("model",), str(error))]) from error.__cause__
    return describe_gradients(network)


def _find_evaluation_problems(study: Study, dataset: Dataset) -> Iterator[Finding]:
    """Find judgments that would fail after all trainings: more images than there are, an attack that cannot run."""
    evaluation = study.evaluation
    takes: list[tuple[Place, int | None, int | None, str]] = []
    for number, entry in enumerate(evaluation.attacks):
        place: Place = ("evaluation", "attacks", number, "autoattack")
        takes.append((place, entry.autoattack, dataset.tests, "test"))
        problem = autoattack.find_problem(study.ball_of(entry), dataset.shape) if entry.autoattack else None
        if problem:
            yield place, problem
    if evaluation.gradient_norms:
        place = ("evaluation", "gradient_norms", "images")
        takes.append((place, evaluation.gradient_norms.images, len(dataset.train), "training"))
    if evaluation.interpretability:
        place = ("evaluation", "interpretability", "images")
        takes.append((place, evaluation.interpretability.images, dataset.tests, "test"))
    for place, images, available, split in takes:
        if images is not None and available is not None and images > available:
            yield place, f"there are {available:,} {split} images, got {images:,}; lower it or drop it"
