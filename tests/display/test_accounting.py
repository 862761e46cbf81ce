"""The account of a run's time: runs of two workers in closed form."""

from pathlib import Path

import pytest
from helpers.closed_form import study, worker

from tune_interpreg.display.account import IDLE, OTHER, OVERHEAD, Account, format_duration
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Job


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Two jobs of one arm."""
    dispatcher = Dispatcher(study("standard"), Store(tmp_path / "store"), "f")
    return [job for job in (dispatcher.next(), dispatcher.next()) if isinstance(job, Job)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account(clock: Clock) -> Account:
    return Account(clock)


def finish(account: Account, job: Job, seconds: float, **spent: float) -> None:
    account.finish(job, [worker(job, job.models[0]) | {"seconds": seconds, "spent": spent}], 1, 2)


def test_shares_are_of_all_workers_time_and_add_up_to_one(jobs: list[Job], account: Account, clock: Clock) -> None:
    """Ten seconds of two workers: two until the first job; one job of four seconds, one of eight."""
    clock.now += 2
    for job in jobs:
        account.start(job)
    clock.now += 4
    finish(account, jobs[0], 3.0, train=2.0, evaluate=1.0)
    clock.now += 4
    finish(account, jobs[1], 7.0, train=5.0, save=1.0, maps=0.5, checks=0.5)
    shares = account.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert {name: round(20 * share, 9) for name, share in shares.items()} == {
        "training": 7.0,
        "evaluation": 1.0,
        "maps": 0.5,
        "checks": 0.5,
        "saving": 1.0,
        OVERHEAD: 4.0 + 2.0,
        IDLE: 4.0,
    }
    assert (account.summary() or "").startswith("10.0 s on 2 workers: 50% at work; 35% training, 5% evaluation, ")


@pytest.mark.parametrize(
    ("seconds", "spent", "shares"),
    [
        (40.0, {"train": 32.0, "evaluate": 8.0}, {"training": 0.8, "evaluation": 0.2, OVERHEAD: 0.0}),
        (3.0, {}, {OTHER: 0.75, OVERHEAD: 0.25}),
    ],
    ids=["work of an earlier run", "work without details"],
)
def test_a_job_that_ran_for_four_seconds(
    jobs: list[Job], account: Account, clock: Clock, seconds: float, spent: dict[str, float], shares: dict[str, float]
) -> None:
    account.start(jobs[0])
    clock.now += 4
    finish(account, jobs[0], seconds, **spent)
    assert account.shares() == pytest.approx(shares | {IDLE: 0})


def test_a_run_without_jobs_has_no_account(jobs: list[Job], account: Account) -> None:
    assert account.summary() is None
    finish(account, jobs[0], 3.0)  # given up before it started
    assert account.summary() is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.42, "3.4 s"), (192, "3 min 12 s"), (119.7, "2 min 0 s"), (7500, "2 h 5 min")]
)
def test_durations_have_the_precision_that_matters(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
