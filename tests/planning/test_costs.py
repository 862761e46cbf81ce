"""What an item costs, of its pieces or of records; what a measurement names, keeps and refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.closed_form import drain, study, worker
from helpers.measured import made, needed, tasks, tiny

from tune_interpreg.planning import costs, timing
from tune_interpreg.planning.costs import ITEM, RESULT, CostsError, Prices
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import Task
from tune_interpreg.store import files as integrity
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file import read as study_file
from tune_interpreg.study.items import Item


def prices(of: Study, *, ray: bool = False) -> Prices:
    priced = Prices(of, 16, ray=ray)
    priced.costs = made(of).pieces
    return priced


# ------------------------------------------------------------------------------ of pieces
@pytest.mark.parametrize(
    ("task", "seconds"),
    [
        (Task("standard", "repeat", (0,)), 0.5 + 2 * 2.0 + 3.0 + 10.0),
        (Task("robust", "search", (1,)), 0.5 + 2 * 2.0 + 3.0),
        (Task("matched", "search", (1,)), 0.5 + 2 * 2.0),
        (Task("robust", "targets", (0,)), 40.0),
        (Task("robust", "checks", (1,)), 7.0),
    ],
)
def test_an_item_costs_what_its_parts_do(task: Task, seconds: float) -> None:
    assert prices(tiny())(task) == pytest.approx(seconds)
    results = 2 if task.role in ("search", "repeat") else 0
    assert prices(tiny(), ray=True)(task) == pytest.approx(seconds + ITEM + RESULT * results)


def test_all_seeds_of_a_repeat_on_a_gpu_are_judged_one_by_one() -> None:
    of = tiny("resources.gpus=1")
    assert prices(of)(Task("standard", "repeat", (0, 1))) == pytest.approx(0.5 + 2 * 2.0 + 2 * (3.0 + 10.0))


@pytest.mark.parametrize(("every", "attacked"), [(0, 1), (1, 7), (2, 4), (3, 3), (7, 1), (9, 1)])
def test_validations_under_attack_are_those_that_are_due_and_the_last(every: int, attacked: int) -> None:
    of = tiny("training.epochs=7", f"evaluation.adversarial_every={every}")
    assert costs.adversarial(of, Task("robust", "search", (0,))) == attacked
    assert costs.adversarial(of, Task("matched", "search", (0,))) == 0
    assert costs.adversarial(of, Task("matched", "repeat", (0,))) == attacked


# ----------------------------------------------------------------------- names of pieces
def test_strengths_rates_and_epochs_change_no_piece() -> None:
    others = ("training.epochs=9", "training.lr=0.5", "training.lr_decay=0.5", "seeds=[3, 4, 5]", "data.root=.")
    changed = tiny(*others, "arms.robust.search.space.lambda.log_uniform=[0.5, 0.9]", "arms.robust.phi=2.0")
    assert needed(changed).keys() == needed(tiny()).keys()


@pytest.mark.parametrize(
    ("override", "kinds"),
    [
        ("training.batch_size=16", {"training", "maps", "checks", "judging"}),
        ("model.name=mnist_cnn", {"training", "maps", "checks", "judging"}),
        ("resources.cpus=2", {"training", "maps", "checks", "judging"}),
        ("arms.matched.norm=sample", {"training"}),
        ("arms.robust.targets.permute=true", {"training"}),
        ("arms.robust.targets.samples=3", {"maps"}),
        ("checks.images=5", {"checks"}),
    ],
)
def test_what_changes_the_time_changes_the_piece(override: str, kinds: set[str]) -> None:
    before, after = needed(tiny()), needed(tiny(override))
    assert {piece.kind for key, piece in after.items() if key not in before} == kinds


def test_arms_of_one_method_share_their_piece() -> None:
    shipped = study_file.load("digits")
    kinds = [piece.title for piece in needed(shipped, 360).values()]
    assert sorted(kinds) == sorted(
        ["standard", "adversarial", "interpretation", "interpretation", "jacobian", "judging", "maps", "checks"]
    )


# ------------------------------------------------------------------------------ of records
def answer(seconds: float, device: str = "cpu") -> Callable[[Item], Record]:
    return lambda item: worker(item) | {"seconds": seconds + len(item.parts), "device": device}


def test_records_of_an_arm_tell_what_its_other_items_cost(tmp_path: Path) -> None:
    of = study("standard", "adversarial", "robust")
    drain(study("standard", "adversarial", "robust", seeds="[0]"), store := Store(tmp_path), answer(4.0))
    priced = Prices(of, 16, Dispatcher(of, store, "f").records.values(), ray=False)
    assert priced.lacking(tasks(of)) == {}
    assert {priced(task) for task in tasks(of)} == {5.0}
    assert {piece.kind for piece in Prices(of, 16).lacking(tasks(of)).values()} == {"training", "judging", "maps"}


@pytest.mark.parametrize("changed", [{"seconds": 0.0}, {"state": "failed"}, {"state": "pruned"}, {"device": "GPU"}])
def test_a_record_that_tells_nothing_of_the_cost_here_is_no_evidence(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    of = study("standard")
    drain(of, store := Store(tmp_path), answer(4.0))
    records = [record | changed for record in store.records()]
    assert Prices(of, 16, records).lacking(tasks(of))


# --------------------------------------------------------------------------------- kept
def test_a_measurement_is_read_as_it_was_kept(tmp_path: Path) -> None:
    known = made(tiny())
    known.save(tmp_path / "here.json")
    assert costs.read(tmp_path / "here.json") == known


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; `plan STUDY --save .*` writes one"),
        ("arms: {}", "is damaged: it is no JSON"),
        ("{}", "is damaged: it has no checksum; give a file that `plan --save` wrote"),
        ("damaged", "is damaged: it has another checksum than its own"),
        ({"format": 9, "version": "7.1"}, "is of format 9 of version 7.1, this is format 1; measure again with --save"),
        ({"format": 1, "device": "cpu"}, r"is no measurement \(host: Field required\); measure again with --save"),
    ],
)
def test_a_file_that_is_no_measurement_is_refused(tmp_path: Path, content: object, said: str) -> None:
    file = tmp_path / "costs.json"
    if content == "damaged":
        made(tiny()).save(file)
        file.write_text(file.read_text().replace("40.0", "41.0"))
    elif content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(integrity.sealed(content)))
    with pytest.raises(CostsError, match=f"{re.escape(str(file))}: {said}"):
        costs.read(file)


# ------------------------------------------------------------------------------- measured
@pytest.mark.parametrize(("full", "first"), [(1, 1), (7, 1), (3000, 1), (3000, 8), (5, 8)])
def test_the_whole_is_reckoned_from_its_parts(monkeypatch: pytest.MonkeyPatch, full: int, first: int) -> None:
    """T(n) = 0.02 + 0.007·n seconds: no more is done than takes about a second, and T(full) is exact."""
    asked = []

    def parts(n: int) -> Callable[[], float]:
        asked.append(n)
        return lambda: 0.02 + 0.007 * n

    monkeypatch.setattr(timing, "_seconds", lambda work: work())
    assert timing.whole(parts, full, first) == pytest.approx(0.02 + 0.007 * full)
    assert max(asked) <= 256
