"""Read studies from texts, as commands read them from files."""

from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import read_study_file


def parse_study(text: str, *overrides: str, where: str = "study.yaml") -> Study:
    """Return the study in ``text``, read from the file ``where`` in a temporary folder."""
    with TemporaryDirectory() as folder, chdir(folder):
        Path(where).write_bytes(text.encode())
        return read_study_file(where, overrides).study
