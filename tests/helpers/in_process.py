"""Run small studies in this process, as ``tune-interpreg run --cluster in-process`` does."""

from collections.abc import Sequence
from io import StringIO
from tempfile import NamedTemporaryFile

from rich.console import Console

from tune_interpreg.running import run
from tune_interpreg.store.store import Store
from tune_interpreg.study.file.read import read_study_file

#: A small teacher; its training takes less than a second.
TEACHER = """
data: {name: digits, train_limit: 64, validation: 20, test_limit: 20}
training: {epochs: 2, batch_size: 32, lr: 0.05}
attack: {norm: l2, eps: 0.5, steps: 1}
seeds: [0]
checks: null
arms:
  adversarial: {method: adversarial}
"""


def run_study(
    store: Store,
    text: str,
    output: StringIO | None = None,
    *,
    ends: bool = True,
    track: Sequence[str] = (),
    mirror: str | None = None,
) -> str:
    """Run the study in ``text``, to its end if it ``ends``, and return what it prints."""
    output = output or StringIO()
    console = Console(file=output, width=250)
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        study = read_study_file(file.name, ["name=small"])
        code = run.run(study, store, where="in-process", console=console, track=track, mirror=mirror)
    printed = output.getvalue()
    assert (code == 0) == ends, printed
    return printed
