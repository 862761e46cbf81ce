"""Check on the driver, before anything runs, that a study's data, network and attacks fit together.

A ``StudyError`` names the place in the file. Its cause is the exception of a user's code, if there was one.
"""

from collections.abc import Iterator

from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, Source, load_and_check, to_pixels
from tune_interpreg.networks.build import IMAGES, build, describe_gradients
from tune_interpreg.networks.vetting import NetworkError
from tune_interpreg.study.config import Model, Study
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.problems import Finding, Place, StudyError
from tune_interpreg.study.setting import list_possible_settings


def check_data(file: StudyFile) -> Dataset:
    """Read the data. Raises ``StudyError`` if it does not suit the study."""
    study = file.study
    try:
        dataset = load_and_check(study.data)
    except DataError as error:
        place = ("data", error.key) if error.key else ("data",)
        raise StudyError([file.locate(place, error.message)]) from error.__cause__
    check_sizes(file, dataset)
    return dataset


def check_sizes(file: StudyFile, data: Dataset | Source) -> None:
    """Raise ``StudyError`` if batches, subsets or judgments take more images than the data is known to have."""
    problems = [*_find_evaluation_problems(file.study, data)]
    if isinstance(data, Dataset):
        problems = [*_find_batch_problems(file.study, len(data.train)), *problems]
    if problems:
        raise StudyError([file.locate(place, message) for place, message in problems])


def check_networks(file: StudyFile, data: Dataset | Source) -> dict[str, str]:
    """Build and check all networks of a study, with training images if they are read.

    Returns: name of the network, with the options that arms change → how it gives its gradients at the images (see
    ``describe_gradients``).

    Raises ``StudyError`` if one cannot be trained.
    """
    seed = file.study.seeds[0]
    images_BCHW = to_pixels(data.train.x_NCHW[:IMAGES]) if isinstance(data, Dataset) else None
    gradients: dict[str, str] = {}
    for place, setting in list_possible_settings(file.study):
        name = _name_network(setting.model, file.study.model)
        if name in gradients:
            continue
        try:
            network = build(setting.model, data.shape, data.classes, seed, images_BCHW=images_BCHW)
        except NetworkError as error:
            at = place if len(place) > 2 else (*place, "model") if setting.model != file.study.model else ("model",)
            raise StudyError([file.locate(at, str(error))]) from error.__cause__
        gradients[name] = describe_gradients(network)
    return gradients


def _name_network(model: Model, shared: Model) -> str:
    """Return a network's name, with its options that differ from those of the study's network."""
    options = [f"{name} {value}" for name, value in model.options.items() if shared.options.get(name) != value]
    return f"{model.name} with {', '.join(options)}" if options and model != shared else model.name


def _find_batch_problems(study: Study, images: int) -> Iterator[Finding]:
    """Find batches with more images than there are to train on, and arms that take more than there are; each once."""
    problems: dict[str, Place] = {}
    for place, setting in list_possible_settings(study):
        limit, size = setting.train_limit or images, setting.training.batch_size
        if limit > images:
            message = f"the study has {images:,} training images, got {limit:,}; lower it or drop it"
            problems.setdefault(message, place if len(place) > 2 else (*place, "data", "train_limit"))
        elif limit < size:
            message = f"a batch takes {size} images, but there are {limit} to train on; lower it, or raise train_limit"
            is_shared = size == study.training.batch_size and limit == images
            problems.setdefault(message, ("training", "batch_size") if is_shared else place)
    yield from ((place, message) for message, place in problems.items())


def _find_evaluation_problems(study: Study, data: Dataset | Source) -> Iterator[Finding]:
    """Find judgments that would fail after all trainings: more images than there are, an attack that cannot run."""
    evaluation, trained = study.evaluation, len(data.train) if isinstance(data, Dataset) else None
    takes: list[tuple[Place, int | None, int | None, str]] = []
    for number, entry in enumerate(evaluation.attacks):
        place: Place = ("evaluation", "attacks", number, "autoattack")
        takes.append((place, entry.autoattack, data.tests, "test"))
        problem = autoattack.find_problem(study.ball_of(entry), data.shape) if entry.autoattack else None
        if problem:
            yield place, problem
    if evaluation.gradient_norms:
        place = ("evaluation", "gradient_norms", "images")
        takes.append((place, evaluation.gradient_norms.images, trained, "training"))
    if evaluation.interpretability:
        place = ("evaluation", "interpretability", "images")
        takes.append((place, evaluation.interpretability.images, data.tests, "test"))
    for place, images, available, split in takes:
        if images is not None and available is not None and images > available:
            yield place, f"there are {available:,} {split} images, got {images:,}; lower it or drop it"
