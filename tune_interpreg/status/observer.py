"""How far a study is, read off its store alone: by anybody who sees the folder, while it runs or after.

Nothing is written, and neither torch nor Ray is loaded. What runs is known by the notes of items under way; how far
each is, by its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from tune_interpreg.schedule import graph, stages
from tune_interpreg.search.choice import Choice
from tune_interpreg.status import reading, searches
from tune_interpreg.status.facts import Arm, Driver, Status, Trouble, UnderWay
from tune_interpreg.status.reading import Ledger
from tune_interpreg.status.remaining import left
from tune_interpreg.status.standing import Standing
from tune_interpreg.store import lock
from tune_interpreg.store.files import Damaged
from tune_interpreg.store.store import Record, Store
from tune_interpreg.store.workers import read_worker
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item, Role

#: Characters of an error that are told.
WIDTH = 160


class Observer:
    """Looks at a store, again and again if asked to."""

    def __init__(self, store: Store):
        self.store, self._ledger = store, Ledger(store)

    def read_status(self) -> Status:
        """How far all is now.

        Raises ``StoreError`` where the folder is no store, ``Damaged`` where its study cannot be read.
        """
        study, (begun, torn) = self.store.load_study(), self.store.read_notes()
        records, damaged = self._ledger.look()  # after the notes: what ends in between is seen twice rather than never
        there = [one for one in (*damaged, *torn) if one.path.exists()]
        return _View(self.store, study, begun, records, there).status()


class _View:
    """A store at one moment."""

    def __init__(
        self, store: Store, study: Study, begun: Sequence[Item], records: Sequence[Record], damaged: Sequence[Damaged]
    ):
        self.store, self.study, self.driver, self.damaged = store, study, _driver(store), list(damaged)
        self.standing = Standing(study, records, self._choices())
        self.state = self.standing.state
        settled = {record["key"] for record in records}
        unsettled = [item for item in begun if item.key not in settled]
        self.running = [item for item in unsettled if self.driver.alive is not False and self._is_of_driver(item)]
        for item in self.running:
            self.standing.start(item)
        running = {item.key for item in self.running}
        self.under_way = [self._under_way(item) for item in self.running]
        self.interrupted = [self._under_way(item) for item in unsettled if item.key not in running]

    def _choices(self) -> dict[str, Choice]:
        found = {}
        for name in self.study.arms:
            try:
                if known := self.store.read_choice(name):
                    found[name] = Choice.model_validate(known)
            except Damaged as error:
                self.damaged.append(error)
            except ValidationError:
                self.damaged.append(Damaged(self.store.choice_file(name), "is no choice of this version"))
        return found

    def _is_of_driver(self, item: Item) -> bool:
        """Whether the driver has begun the item, rather than an earlier one that left it."""
        note = reading.modified(self.store.checkpoint_dir(item.key) / "item.json")
        return note >= reading.modified(self.store.driver_file)

    def _under_way(self, item: Item) -> UnderWay:
        reached, place = reading.reached(self.store, item), read_worker(self.store, item.key)
        here = place if place and place.driver == self.store.read_driver().get("id") else None
        known: dict[str, Any] = {"host": here.host, "pid": here.pid} if here else {}
        own = {name: getattr(item, name) for name in ("arm", "role", "number", "seeds")}
        return UnderWay(name=item.title, **own, **vars(reached), **known)

    # ---------------------------------------------------------------------- facts
    def status(self) -> Status:
        arms = tuple(self._arm(name, parent) for name, parent in stages.parents(self.study).items())
        seconds, untimed = left(self.standing, arms, self.under_way, self.driver)
        return Status(
            study=self.study.name,
            store=str(self.store.path),
            state=self._word(),
            driver=self.driver,
            settled=self.state.settled,
            running=self.state.running,
            total=graph.count_parts(self.study, self.state),
            seconds_left=seconds,
            untimed=untimed,
            damaged=tuple(str(one) for one in self.damaged),
            arms=arms,
        )

    def _word(self) -> str:
        ready = any(graph.ready_tasks(self.study, self.state))
        if self.state.settled >= graph.count_parts(self.study, self.state) and not ready:
            return "finished"
        if self.driver.alive is not False:
            return "running" if self.driver.alive else "unknown"
        return "stopped" if ready else "ended"

    def _arm(self, name: str, parent: str | None) -> Arm:
        return Arm(
            name=name,
            parent=parent,
            stages=tuple(stages.stages_of(self.study, self.state, name)),
            running=tuple(one for one in self.under_way if one.arm == name),
            interrupted=tuple(one for one in self.interrupted if one.arm == name),
            troubles=tuple(_troubles([record for role in stages.STAGE_NAMES for record in self.standing.of(name, role)])),
            best=searches.best(self.standing, name),
            match=searches.match(self.standing, name),
            waits=self._waits(name),
        )

    def _waits(self, name: str) -> str | None:
        """Why nothing more of the arm can start, where something is left of it."""
        why = graph.blocked_arms(self.study, self.state).get(name)
        started = any(tally.running for tally in (self.state.searches[name], self.state.repeats[name]))
        ready = (task.arm for task in graph.ready_tasks(self.study, self.state) if task.role in ("search", "repeat"))
        if why is None or started or name in ready:
            return None
        coming = list(dict.fromkeys(self._to_come(name)))
        return f"waits for {' and '.join(coming)}" if coming else why

    def _to_come(self, name: str) -> Iterator[str]:
        """What the arm needs and may still get."""
        arm, key = self.study.arms[name], graph.maps_key(self.study.arms[name])
        if key is not None:
            maps, trained = self.state.maps[key], self.state.repeats[key[0]]
            seeds = set(graph.maps_seeds(self.study, key)) - maps.settled
            if not seeds <= trained.settled and not graph.is_arm_over(self.study, self.state, key[0]):
                yield key[0]
            elif seeds & trained.done:
                yield f"the maps of {key[0]}"
        for other in (arm.search.match_loss_of, arm.search.anchor) if arm.search else ():
            if other and not graph.is_arm_over(self.study, self.state, other):
                yield other


def _driver(store: Store) -> Driver:
    idle = round(max(0.0, time.time() - reading.changed(store)), 1)
    try:
        known = store.read_driver()
        pid, host, since = int(known["pid"]), str(known["host"]), datetime.fromisoformat(known["since"])
    except (LookupError, TypeError, ValueError):
        return Driver(None, None, None, alive=False, idle=idle)
    return Driver(pid, host, since.isoformat(), alive=lock.is_driver_alive(store), idle=idle)


def _troubles(records: Sequence[Record]) -> list[Trouble]:
    """What did not end well, by role and state."""
    wrong = [record for record in records if record["state"] != "done"]
    grouped = groupby(sorted(wrong, key=_kind), _kind)
    return [
        Trouble(role, state, len(held), next((_first_line(one["error"]) for one in held if one.get("error")), None))
        for (role, state), found in grouped
        if (held := list(found))
    ]


def _kind(record: Record) -> tuple[Role, str]:
    return record["role"], record["state"]


def _first_line(error: str) -> str:
    line = next(iter(error.strip().splitlines()), "")
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
