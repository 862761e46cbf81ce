"""`tune-interpreg validate`."""

import typer

from tune_interpreg.commands.shared import RootOption, SetOption, StudyArgument, report_errors
from tune_interpreg.study.file.read import StudyFile, read_study_file


def validate(study: StudyArgument, overrides: SetOption = None, data_root: RootOption = None) -> None:
    """Check STUDY without running it. Prints all problems at once, each with file and line. Writes nothing.

    The data set's files are looked up unless they would have to be downloaded; those of an image_folder are opened, and
    a line says what would be read. Then the network is built and checked on random images.

    Example:  tune-interpreg validate my-study.yaml --set attack.eps=0.5
    """
    with report_errors():
        file = read_study_file(study, overrides or (), data_root)
        lines = _check_data_and_network(file)
    for line in lines:
        typer.echo(line)
    name, arms, seeds = file.study.name, file.study.arms, file.study.seeds
    note = "" if lines else "; plan and run check its data and its network, or this command with --data-root"
    typer.echo(f"{name}: valid; {len(arms)} arms ({', '.join(arms)}), {len(seeds)} seeds{note}")


def _check_data_and_network(file: StudyFile) -> list[str]:
    """Return a line on the data, if there is one, and one on the network. Neither, if the data is not there yet.

    Raises ``StudyError``.
    """
    from tune_interpreg.data.dataset import DataError, open_source
    from tune_interpreg.data.shipped import DOWNLOADED, cache_folder
    from tune_interpreg.running.preflight import check_networks, check_sizes
    from tune_interpreg.study.problems import StudyError

    data, may_be_missing = file.study.data, False
    if data.root is None and data.name in DOWNLOADED:
        data, may_be_missing = data.model_copy(update={"root": str(cache_folder())}), True
    try:
        source = open_source(data)
    except DataError as error:
        if may_be_missing:
            return []
        place = ("data", error.key) if error.key else ("data",)
        raise StudyError([file.locate(place, error.message)]) from error.__cause__
    check_sizes(file, source)
    networks = check_networks(file, source).items()
    models = [f"model {name}, gradients at the images: {gradients}" for name, gradients in networks]
    return [source.description, *models] if source.description else models
