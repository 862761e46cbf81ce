"""`tune-interpreg validate`."""

import typer

from tune_interpreg.commands.shared import RootOption, SetOption, StudyArgument, report_errors
from tune_interpreg.study.file.read import StudyFile, read_study_file


def validate(study: StudyArgument, overrides: SetOption = None, data_root: RootOption = None) -> None:
    """Check STUDY without running it. Prints all problems at once, each with file and line. Writes nothing.

    If --data-root or data.root names a folder, the data set's files are looked up in it. Those of an image_folder are
    opened, and a line says what would be read.

    Example:  tune-interpreg validate my-study.yaml --set attack.eps=0.5
    """
    with report_errors():
        file = read_study_file(study, overrides or (), data_root)
        if file.study.data.root is not None:
            typer.echo(_check_data(file), nl=False)
    name, arms, seeds = file.study.name, file.study.arms, file.study.seeds
    note = "" if file.study.data.root else "; its data is checked by plan and run, or here with --data-root"
    typer.echo(f"{name}: valid; {len(arms)} arms ({', '.join(arms)}), {len(seeds)} seeds{note}")


def _check_data(file: StudyFile) -> str:
    """Look up the data set's files in its folder; return a line on them. Raises ``StudyError`` if some are missing."""
    from tune_interpreg.data.dataset import DataError, open_source
    from tune_interpreg.study.problems import StudyError

    try:
        description = open_source(file.study.data).description
    except DataError as error:
        place = ("data", error.key) if error.key else ("data",)
        raise StudyError([file.locate(place, error.message)]) from error.__cause__
    return f"{description}\n" if description else ""
