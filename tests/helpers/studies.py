"""Read studies from texts, as commands read them from files."""

from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.problems import StudyError


def parse_study(text: str, *overrides: str, where: str = "study.yaml") -> Study:
    """Return the study in ``text``, read from the file ``where`` in a temporary folder."""
    with TemporaryDirectory() as folder, chdir(folder):
        Path(where).write_bytes(text.encode())
        return read_study_file(where, overrides).study


def list_problems(text: str) -> list[str]:
    """Return the problems of the study in ``text``, which must have some."""
    with pytest.raises(StudyError) as caught:
        parse_study(text)
    return [str(problem) for problem in caught.value.problems]
