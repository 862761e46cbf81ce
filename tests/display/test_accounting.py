"""Where a run's time went: closed-form days of two workers, and what a real trial tells of its own."""

from pathlib import Path

import pytest
from helpers.closed_form import study, worker
from rich.console import Console

from tune_interpreg.display import account as accounting
from tune_interpreg.display.account import OTHER, OVERHEAD, WAITING, Account
from tune_interpreg.display.lines import Lines
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Item


class Clock:
    """Tells the time that it is given."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Two of one arm."""
    dispatcher = Dispatcher(study("standard"), Store(tmp_path / "store"), "f")
    found = [dispatcher.next(), dispatcher.next()]
    return [item for item in found if isinstance(item, Item)]


def account(clock: Clock) -> Account:
    return Account(Lines(Console(quiet=True)), clock)


def settle(account: Account, item: Item, seconds: float, **spent: float) -> None:
    account.settle(item, worker(item) | {"seconds": seconds, "spent": spent}, 1, 2)


def test_shares_are_of_all_workers_time_and_add_up(items: list[Item]) -> None:
    """Ten seconds of two workers: two until the first item; one item of eight seconds, one of four."""
    clock = Clock()
    own = account(clock)
    clock.now += 2
    for item in items:
        own.start(item)
    clock.now += 4
    settle(own, items[0], 3.0, train=2.0, evaluate=1.0)
    clock.now += 4
    settle(own, items[1], 7.0, train=5.0, save=1.0, maps=0.5, checks=0.5)
    shares = own.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert {name: round(20 * share, 9) for name, share in shares.items()} == {
        "training": 7.0,
        "evaluation": 1.0,
        "maps": 0.5,
        "checks": 0.5,
        "saving": 1.0,
        OVERHEAD: 4.0 + 2.0,
        WAITING: 4.0,
    }
    assert own.told() == (
        "10.0 s on 2 workers: 50% at work; 35% training, 5% evaluation, 2% maps, 2% checks, 5% saving, "
        "30% starting, logging, scheduling, 20% nothing to do"
    )


def test_what_an_item_did_in_an_earlier_run_is_not_of_this_one(items: list[Item]) -> None:
    clock = Clock()
    own = account(clock)
    own.start(items[0])
    clock.now += 5
    settle(own, items[0], 50.0, train=40.0, evaluate=10.0)
    assert own.shares() == pytest.approx({"training": 0.8, "evaluation": 0.2, OVERHEAD: 0, WAITING: 0})


def test_work_that_no_record_details_is_work(items: list[Item]) -> None:
    clock = Clock()
    own = account(clock)
    own.start(items[0])
    clock.now += 4
    settle(own, items[0], 3.0)
    assert own.shares() == pytest.approx({OTHER: 0.75, OVERHEAD: 0.25, WAITING: 0})


def test_a_run_in_which_nothing_ran_tells_nothing(items: list[Item]) -> None:
    assert account(Clock()).told() is None
    own = account(Clock())
    settle(own, items[0], 3.0)  # its item was given up before it began
    assert own.told() is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(3.42, "3.4 s"), (192, "3 min 12 s"), (119.7, "2 min 0 s"), (7500, "2 h 5 min")]
)
def test_durations_are_told_to_the_precision_that_matters(seconds: float, told: str) -> None:
    assert accounting.duration(seconds) == told


def test_a_record_says_what_its_seconds_were_spent_on(items: list[Item]) -> None:
    record = ledger.make_record(items[0], "done", seconds=3.0, spent={"train": 2.00049, "evaluate": 1.0})
    assert record["spent"] == {"train": 2.0, "evaluate": 1.0}
    assert ledger.make_record(items[0], "failed")["spent"] == {}
