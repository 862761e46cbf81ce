"""`tune-interpreg validate`."""

from __future__ import annotations

import typer

from tune_interpreg import study_file
from tune_interpreg.commands.shared import RootOption, SetOption, StudyArgument, Told


def validate(study: StudyArgument, overrides: SetOption = None, data_root: RootOption = None) -> None:
    """Check STUDY without running it: all problems at once, each with file and line; nothing is written.

    Example:  tune-interpreg validate my-study.yaml --set attack.eps=0.5
    """
    with Told():
        checked = study_file.read(study, overrides or (), data_root).study
    arms = ", ".join(checked.arms)
    typer.echo(f"{checked.name}: valid; {len(checked.arms)} arms ({arms}), {len(checked.seeds)} seeds")
