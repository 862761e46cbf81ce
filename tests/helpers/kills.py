"""kill -9 at random moments, of the driver, of workers, of the raylet; `run` again until the study is finished.

On demand:  python tests/kills.py --kills 200 --seed 0

Rounds follow one another, each a fresh store of the same study, until so many kills are done; then each round's store
must be that of a run in which nothing died: the same records, models and maps, no file that is half or left over. What
is told of a round:

- the epochs that ran twice, read off the TensorBoard events. An epoch's events are on disk before its checkpoint is, so
  a whole epoch that ran is counted, however its worker died. One that was cut short has no events and is not counted:
  it is the part of an epoch that a kill costs anyway;
- how long workers outlive their driver, and how long a driver outlives its raylet.

Even rounds give a trial the whole machine, so that a search's proposals have one order; odd ones run two at a time, and
are compared key by key: a key names all that determines a result.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from helpers.kept import Kept, epochs

STUDY = """
name: kills
data: {name: digits, train_limit: 600, validation: 60, test_limit: 120}
training: {epochs: 6, batch_size: 16, lr: 0.05}
attack: {eps: 0.5, steps: 5}
evaluation: {steps: 10}
resources: {cpus: CPUS}
seeds: [0, 1]
checks: null
arms:
  standard: {method: standard}
  adversarial: {method: adversarial}
  robust:
    method: interpretation
    targets: {teacher: adversarial, samples: 40}
    search:
      space: {lambda: {log_uniform: [0.01, 1.0]}, phi: {choice: [0.0, 1.0]}}
      maximize: val/adv_accuracy
      trials: 3
  jacobian:
    method: jacobian
    search: {space: {lambda_j: {log_uniform: [0.001, 1.0]}}, match_loss_of: robust, trials: 3}
"""
VICTIMS = {"driver": 9, "worker": 8, "raylet": 3}
MOMENTS = ("start-up", "targets", "epoch", "ending", "whenever")
BOUND = 60  # seconds that a driver may outlive its raylet
RAY_GAVE_UP = 1  # where its raylet dies while it starts, Ray ends the process itself, with a message of its own
STUCK = 240  # seconds without anything new
PATIENCE = 30  # seconds to wait for a moment, before any other will do


# ------------------------------------------------------------------ the processes
class Run:
    """One `run` of the study, as a user starts it."""

    def __init__(self, folder: Path):
        words = ["run", str(folder / "study.yaml"), "--store", str(folder / "store")]
        self.log = (folder / "log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tune_interpreg", *words], stdout=self.log, stderr=self.log, start_new_session=True
        )

    def workers(self) -> list[int]:
        return [pid for pid, command in of_ray(self.process.pid).items() if re.match(r"ray::(?!\w*Agent)", command)]

    def victim(self, kind: str) -> int | None:
        if kind == "driver":
            return self.process.pid
        raylets = [pid for pid, command in of_ray(self.process.pid).items() if "/raylet/raylet " in command]
        return next(iter(self.workers() if kind == "worker" else raylets), None)

    def forget(self) -> None:
        """Remove Ray's own folder of this run, which a killed driver leaves."""
        self.log.close()
        for session in Path("/tmp/ray").glob(f"session_*_{self.process.pid}"):
            shutil.rmtree(session, ignore_errors=True)


def of_ray(driver: int) -> dict[int, str]:
    """Ray's processes of this driver and no other, by their log files, which name it: pid → command."""
    ours, found = re.compile(rf"/session_[^/]*_{driver}/"), {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            logs = [os.readlink(entry / "fd" / number) for number in ("1", "2")]
            if any(ours.search(log) for log in logs) and int(entry.name) != driver:
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
    return found


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


# ------------------------------------------------------------------------- a round
@dataclass
class Round:
    """One study from its first run to its end, and what was killed on the way."""

    folder: Path
    cpus: int
    rng: random.Random
    say: Callable[[str], object]
    kills: list[tuple[str, str]] = field(default_factory=list)
    orphans: list[float] = field(default_factory=list)
    hangs: list[float] = field(default_factory=list)
    ledger: dict[Path, tuple[int, int]] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def finish(self, kills: int) -> None:
        """Run, kill, run again, until the study is finished; after so many kills nothing dies any more."""
        (self.folder / "study.yaml").write_text(STUDY.replace("CPUS", str(self.cpus)))
        while True:
            if (code := self._one_run(kills)) == 0:
                return
            expected = {"driver": [-signal.SIGKILL], "raylet": [2, RAY_GAVE_UP]}.get(self.kills[-1][0])
            assert code in (expected or []), f"exit code {code}: {self.log()}"

    def _one_run(self, kills: int) -> int:
        """Its exit code, however it ended."""
        run = Run(self.folder)
        try:
            while run.process.poll() is None and len(self.kills) < kills:
                self._kill_once(run)
            self._wait(lambda: run.process.poll() is not None, run)
        finally:
            run.process.kill()  # where the run is given up
            run.forget()
        return run.process.wait()

    def _kill_once(self, run: Run) -> None:
        """Wait for a random moment; kill what was chosen, if it is there."""
        kind = self.rng.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        made = list(self.store.glob("targets/*.npy"))
        moment = self.rng.choice([moment for moment in MOMENTS if moment != "targets" or not made])
        comes, late = self._moment(moment, run), time.monotonic() + PATIENCE
        if not self._wait(lambda: comes() or time.monotonic() > late, run):
            return
        on_time = time.monotonic() < late
        if (pid := run.victim(kind)) is None or not kill(pid):
            return
        self.kills.append((kind, moment if on_time else "whenever"))
        self.say(f"  {len(self.kills):3}: {' at '.join(self.kills[-1])}; {len(self.ledger)} records so far")
        if kind == "driver":
            run.process.wait()  # a kill takes its time, and what comes after it must not be told of this run
            if self.rng.random() < 0.5:  # else the next driver comes while they live
                self.orphans.append(self._seconds_until(lambda: not run.workers()))
        elif kind == "raylet":
            self.hangs.append(self._seconds_until(lambda: run.process.poll() is not None))

    def _moment(self, name: str, run: Run) -> Callable[[], bool]:
        """A condition that comes true at a moment of that kind."""
        delay, begun = self.rng.uniform(0, 6), time.monotonic()
        first = {"targets": "checkpoints/*/maps*", "epoch": "checkpoints/*/*.safetensors", "ending": "ledger/*/*.json"}
        if name == "start-up":
            return lambda: time.monotonic() - begun > delay
        if name == "whenever":
            return lambda: bool(run.workers()) and time.monotonic() - begun > 2 * delay
        if name == "ending":
            first["ending"] = self.rng.choice(["ledger/*/*.json", "models/*/.*.part", "models/*/seed*", "ledger/*/.*"])
        before = self._stamps(first[name])
        return lambda: self._stamps(first[name]) > before

    def _stamps(self, pattern: str) -> float:
        """The newest change among files."""
        found = []
        for path in self.store.glob(pattern):
            with suppress(FileNotFoundError):  # a file may go away while one looks
                found.append(path.stat().st_mtime)
        return max(found, default=0.0)

    def _wait(self, until: Callable[[], bool], run: Run) -> bool:
        """Whether the condition came true before the run ended; the ledger is watched meanwhile."""
        deadline = time.monotonic() + STUCK
        while not until():
            if run.process.poll() is not None:
                return False
            self._watch_ledger()
            assert time.monotonic() < deadline, f"nothing new for {STUCK} s: {self.log()}"
            time.sleep(0.02)
        return True

    def _watch_ledger(self) -> None:
        """No record is ever written anew."""
        now = {path: (status.st_ino, status.st_mtime_ns) for path, status in _statuses(self.store)}
        assert now.items() >= self.ledger.items(), f"rewritten: {dict(self.ledger.items() - now.items())}"
        self.ledger = now

    def _seconds_until(self, over: Callable[[], bool]) -> float:
        begun = time.monotonic()
        while not over():
            assert time.monotonic() - begun < BOUND, f"not over after {BOUND} s: {self.log()}"
            time.sleep(0.05)
        return time.monotonic() - begun

    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    # -------------------------------------------------------------- what came out
    def repeated(self) -> int:
        """How many whole epochs ran twice; of one trial at most one a worker that died."""
        again = 0
        for trial in self.store.glob("tensorboard/*/*/"):
            ran = [steps for steps in epochs(trial) if steps]
            for earlier, later in pairwise(ran):
                twice = earlier[-1] - later[0] + 1
                assert 0 <= twice <= 1, f"{trial.name}: epochs {earlier}, then {later}"
                again += twice
            assert sorted({step for steps in ran for step in steps}) == list(range(1, 7)), f"{trial.name}: {ran}"
        return again

    def ran_after_their_record(self) -> list[str]:
        """Trials that a worker took up although they were settled."""
        late = []
        for path in self.store.glob("ledger/*/*.json"):
            arm, key, settled = path.parent.name, path.stem[:6], path.stat().st_mtime
            starts = [int(event.name.split(".")[3]) for event in self.store.glob(f"tensorboard/{arm}/*-{key}/events.*")]
            late += [str(path)] if any(start > settled + 1 for start in starts) else []
        return late

    def check(self, reference: Kept, *, in_order: bool) -> None:
        kept = Kept(self.store)
        assert (differing := kept.difference(reference, in_order=in_order)) == [], differing
        assert kept.shape() == reference.shape(), kept.shape()
        assert (left := kept.leftovers()) == [], left
        assert (late := self.ran_after_their_record()) == [], late


def _statuses(store: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in store.glob("ledger/*/*.json"):
        yield path, path.stat()


# ------------------------------------------------------------------------- all of it
def torture(folder: Path, kills: int, seed: int, say: Callable[[str], object] = print) -> list[Round]:
    """Rounds until ``kills`` are done, each checked against a run in which nothing died."""
    rng, whole = random.Random(seed), os.cpu_count() or 1
    references, rounds = {}, []
    while (left := kills - sum(len(one.kills) for one in rounds)) > 0:
        in_order = len(rounds) % 2 == 0
        cpus = whole if in_order else max(1, whole // 2)
        if cpus not in references:
            references[cpus] = Round(made(folder / f"whole-{cpus}"), cpus, rng, say)
            references[cpus].finish(0)
        one = Round(made(folder / f"round-{len(rounds)}"), cpus, rng, say)
        one.finish(min(left, rng.randint(10, 20)))
        one.check(Kept(references[cpus].store), in_order=in_order)
        rounds.append(one)
        say(told(one))
    return rounds


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def told(one: Round) -> str:
    kinds, moments = Counter(kind for kind, _ in one.kills), Counter(moment for _, moment in one.kills)
    lived, hung = max(one.orphans, default=0), max(one.hangs, default=0)
    return (
        f"{one.folder.name}: {len(one.kills)} kills {dict(kinds)}, at {dict(moments)}; {one.repeated()} epochs ran "
        f"twice; workers outlived their driver by at most {lived:.1f} s, drivers their raylet by {hung:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="kept; default a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    begun = time.monotonic()
    rounds = torture(folder, options.kills, options.seed)
    print(f"{sum(len(one.kills) for one in rounds)} kills in {time.monotonic() - begun:.0f} s; all is as if none died")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
