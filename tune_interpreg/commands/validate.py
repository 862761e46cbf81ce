"""`tune-interpreg validate`."""

from __future__ import annotations

import typer

from tune_interpreg.commands.shared import RootOption, SetOption, StudyArgument, report_errors
from tune_interpreg.study.file import read as study_file
from tune_interpreg.study.file.read import StudyFile


def validate(study: StudyArgument, overrides: SetOption = None, data_root: RootOption = None) -> None:
    """Check STUDY without running it: all problems at once, each with file and line; nothing is written.

    Where --data-root or data.root names a folder, the data set's files are looked for in it; none is read whole.

    Example:  tune-interpreg validate my-study.yaml --set attack.eps=0.5
    """
    with report_errors():
        file = study_file.read(study, overrides or (), data_root)
        checked = file.study
        if checked.data.root is not None:
            _look_for_data(file)
    arms = ", ".join(checked.arms)
    untried = "; its data are looked for by plan and run, or here with --data-root" if checked.data.root is None else ""
    typer.echo(f"{checked.name}: valid; {len(checked.arms)} arms ({arms}), {len(checked.seeds)} seeds{untried}")


def _look_for_data(file: StudyFile) -> None:
    """Have the data set look into its root, as it does to tell how many images there are to test on.

    Raises ``StudyError`` where it finds them wanting.
    """
    from tune_interpreg.data.dataset import DataError, count_test_images
    from tune_interpreg.study.file.yaml_lines import StudyError

    try:
        count_test_images(file.study.data.model_copy(update={"test_limit": None}))
    except DataError as error:
        place = ("data", error.key) if error.key else ("data",)
        raise StudyError([file.locate(place, error.message)]) from None
