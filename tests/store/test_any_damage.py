"""A property: after any damage to any one file of a store, report and run name it and the study ends the same."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from helpers.closed_form import Leaving, outcome, steps
from helpers.in_process import run_study
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis.report import print_tables
from tune_interpreg.cluster import drain
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.stopping import Stop
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store

pytestmark = pytest.mark.ray  # imports it

TINY = """
data: {name: digits, train_limit: 64, validation: 20, test_limit: 20}
seeds: [0]
checks: null
arms:
  adversarial: {method: adversarial}
  robust:
    method: interpretation
    targets: {teacher: adversarial}
    search: {maximize: val/adv_accuracy, trials: 3, space: {lambda: {log_uniform: [0.05, 0.2]}}}
  jacobian:
    method: jacobian
    search: {match_loss_of: robust, trials: 2, space: {lambda_j: {log_uniform: [0.001, 1.0]}}}
"""


class ClosedFormDrain:
    """A stand-in for ``drain.drain``: workers answer by closed form, and the run stops after ``limit`` items."""

    def __init__(self) -> None:
        self.limit = 10**9

    def __call__(self, dispatcher: Dispatcher, where: str, *, debug: bool = False) -> Stop:
        for count, _ in enumerate(steps(dispatcher, Leaving(dispatcher.store)), start=1):
            if count == self.limit:
                break
        return Stop()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A finished store, and one of a run that stopped in its first search."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in = ClosedFormDrain()
        patch.setattr(drain, "drain", stand_in)
        folders = {}
        for name, limit in (("interrupted", 4), ("finished", 10**9)):
            stand_in.limit = limit
            folders[name] = tmp_path_factory.mktemp(name)
            run_study(Store(folders[name] / "store"), TINY, ends=name == "finished")
            assert Store(folders[name] / "store").records(), name
        yield folders


DAMAGES = {
    "truncated": lambda content, data: content[: data.draw(st.integers(0, max(0, len(content) - 1)))],
    "flipped": lambda content, data: flip(content, data.draw(st.integers(0, 8 * len(content) - 1))),
    "garbage": lambda content, data: data.draw(st.binary(max_size=200)),
    "doubled": lambda content, data: content + content,
}


def flip(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


@given(st.data())
@settings(max_examples=7, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("state", ["interrupted", "finished"])
def test_after_any_damage_to_a_file_the_study_ends_the_same(
    state: str, stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    store = Store(shutil.copytree(stores[state] / "store", folder / "store"))
    names = sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file())
    path = store.path / data.draw(st.sampled_from([name for name in names if (store.path / name).stat().st_size]))
    path.write_bytes(DAMAGES[data.draw(st.sampled_from(sorted(DAMAGES)))](path.read_bytes(), data))
    with suppress(StoreError):
        print_tables(store.path, console=Console(file=StringIO()))
    run_study(store, TINY)
    assert outcome(store) == outcome(Store(stores["finished"] / "store"))
    shutil.rmtree(folder)
