"""Check on the driver, before anything runs, that a study's data, network and attacks fit together.

A ``StudyError`` names the place in the file. Its cause is the exception of a user's code, if there was one.
"""

from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, Source, load_and_check, to_pixels
from tune_interpreg.networks.build import IMAGES, build, describe_gradients
from tune_interpreg.networks.vetting import NetworkError
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.problems import StudyError


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
    if (images := study.evaluation.autoattack) is not None:  # AutoAttack itself would refuse after all trainings
        problem = autoattack.find_problem(study.evaluation_attack, dataset.shape)
        if dataset.tests is not None and images > dataset.tests:
            problem = f"there are {dataset.tests:,} test images, got {images:,}; lower it or drop it"
        if problem:
            raise StudyError([file.locate(("evaluation", "autoattack"), problem)])
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
