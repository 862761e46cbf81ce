"""Check on the driver, before anything runs, that a study's data, network and attacks fit together."""

from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, load_and_check
from tune_interpreg.networks.build import build
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.problems import StudyError


def check_data(file: StudyFile) -> Dataset:
    """Read the data and build the network once. Raises ``StudyError`` with the place in the file."""
    study = file.study
    try:
        dataset = load_and_check(study.data)
    except DataError as error:
        place = ("data", error.key) if error.key else ("data",)
        raise StudyError([file.locate(place, error.message)]) from error.__cause__
    if len(dataset.train) < study.training.batch_size:
        message = f"a batch takes {study.training.batch_size} images, but there are {len(dataset.train)} to train on"
        raise StudyError([file.locate(("training", "batch_size"), f"{message}; lower it, or raise data.train_limit")])
    if (images := study.evaluation.autoattack) is not None:  # AutoAttack itself would refuse after all trainings
        problem = autoattack.find_problem(study.evaluation_attack, dataset.shape)
        if dataset.tests is not None and images > dataset.tests:
            problem = f"there are {dataset.tests:,} test images, got {images:,}; lower it or drop it"
        if problem:
            raise StudyError([file.locate(("evaluation", "autoattack"), problem)])
    try:
        build(study.model, dataset.shape, dataset.classes, seeding.generator(0, "init"))
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"{study.model.name} does not take images of shape {dataset.shape}: {error}; name another model"
        raise StudyError([file.locate(("model",), message)]) from None
    return dataset
