"""kill -9 at random moments, of the driver, of workers and of the raylet; run again until the study is finished.

Each round is one fresh store of the same study. When it is finished, it must equal the store of a run in which nothing
was killed: the same records, models and maps, no half-written file, no leftover. A round also measures

- the epochs that ran twice, from TensorBoard's events. Events are on disk before the epoch's checkpoint, so each whole
  epoch counts. The part of an epoch that a kill interrupts leaves no events;
- how long workers outlive their driver, and how long a driver outlives its raylet.

In even rounds a trial takes the whole machine, so that a search proposes its trials in one order. In odd rounds two
trials run at once, and records with equal keys are compared: a key names everything that determines a result.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from helpers.kept import Kept, epochs

EPOCHS = 6
STUDY = f"""
name: kills
data: {{name: digits, train_limit: 400, validation: 60, test_limit: 60}}
training: {{epochs: {EPOCHS}, batch_size: 16, lr: 0.05}}
attack: {{eps: 0.5, steps: 3}}
evaluation: {{steps: 5}}
resources: {{cpus: CPUS}}
seeds: [0]
checks: null
arms:
  adversarial: {{method: adversarial}}
  robust:
    method: interpretation
    targets: {{teacher: adversarial, samples: 20}}
    search:
      space: {{lambda: {{log_uniform: [0.01, 1.0]}}, phi: {{choice: [0.0, 1.0]}}}}
      maximize: val/adv_accuracy
      trials: 3
  jacobian:
    method: jacobian
    search: {{space: {{lambda_j: {{log_uniform: [0.001, 1.0]}}}}, match_loss_of: robust, trials: 3}}
"""
VICTIMS = {"driver": 9, "worker": 8, "raylet": 3}  # with their weights
MOMENTS = ("start-up", "targets", "epoch", "ending", "any")
MAX_HANG = 60  # seconds that a driver may outlive its raylet
RAY_GAVE_UP = 1  # exit code if the raylet dies during Ray's start: Ray itself ends the process
STUCK = 240  # seconds without progress
PATIENCE = 15  # seconds to wait for a moment, before any other will do


#: Workers have as many threads as their trial has cores, unless this variable says otherwise; and threads that wait
#: leave their core to other tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
ENVIRONMENT["OMP_WAIT_POLICY"] = "PASSIVE"


# ------------------------------------------------------------------ processes
def ray_processes(driver: int) -> dict[int, str]:
    """Return the Ray processes of this driver only, pid → command. Their log files are in a folder with its pid."""
    session, commands = re.compile(rf"/session_[^/]*_{driver}/"), {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            logs = [os.readlink(entry / "fd" / number) for number in ("1", "2")]
            if any(session.search(log) for log in logs) and int(entry.name) != driver:
                commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
    return commands


def kill(pid: int) -> bool:
    """Kill a process. Returns whether it was alive."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Run:
    """One `run` of the study, started like a user does."""

    def __init__(self, folder: Path, *options: str):
        words = ["run", str(folder / "study.yaml"), "--store", str(folder / "store"), *options]
        with (folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tune_interpreg", *words],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=ENVIRONMENT,
            )

    def workers(self) -> list[int]:
        commands = ray_processes(self.process.pid).items()
        return [pid for pid, command in commands if re.match(r"ray::(?!\w*Agent)", command)]

    def victim(self, kind: str) -> int | None:
        if kind == "driver":
            return self.process.pid
        if kind == "worker":
            return next(iter(self.workers()), None)
        commands = ray_processes(self.process.pid).items()
        return next((pid for pid, command in commands if "/raylet/raylet " in command), None)

    def delete_session(self) -> None:
        """Delete Ray's folder of this run, which a killed driver leaves."""
        for session in Path("/tmp/ray").glob(f"session_*_{self.process.pid}"):
            shutil.rmtree(session, ignore_errors=True)


# ------------------------------------------------------------------------- a round
@dataclass
class Round:
    """One study from its first run to its end, and the kills in between, as (victim, moment)."""

    folder: Path
    cpus: int
    rng: random.Random
    kills: list[tuple[str, str]] = field(default_factory=list)
    orphaned: list[float] = field(default_factory=list)  # seconds that workers outlived their driver
    hung: list[float] = field(default_factory=list)  # seconds that a driver outlived its raylet
    ledger: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = self.folder / "store"
        self.folder.mkdir(parents=True)
        (self.folder / "study.yaml").write_text(STUDY.replace("CPUS", str(self.cpus)))

    def finish(self, kills: int = 0, *options: str) -> None:
        """Run, kill and run again, until the study is finished. After ``kills``, nothing is killed any more."""
        while (code := self._run_once(kills, *options)) != 0:
            expected = {"driver": [-signal.SIGKILL], "raylet": [2, RAY_GAVE_UP]}
            victim = self.kills[-1][0] if self.kills else "none"
            assert code in expected.get(victim, []), f"exit code {code}: {self.log()}"

    def _run_once(self, kills: int, *options: str) -> int:
        """Run and kill. Returns the exit code."""
        run = Run(self.folder, *options)
        try:
            while run.process.poll() is None and len(self.kills) < kills:
                self._kill_one(run)
            self._wait(lambda: run.process.poll() is not None, run)
        finally:
            run.process.kill()  # if an assertion ends the test
            run.process.wait()
            run.delete_session()
        return run.process.returncode

    def _kill_one(self, run: Run) -> None:
        """Wait for a random moment, then kill a random victim, if it is there."""
        kind = self.rng.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        has_maps = bool(list(self.store.glob("targets/*.npy")))
        moment = self.rng.choice([moment for moment in MOMENTS if moment != "targets" or not has_maps])
        has_come, deadline = self._moment(moment, run), time.monotonic() + PATIENCE
        if not self._wait(lambda: has_come() or time.monotonic() > deadline, run):
            return
        on_time = time.monotonic() < deadline
        if (pid := run.victim(kind)) is None or not kill(pid):
            return
        self.kills.append((kind, moment if on_time else "any"))
        print(f"{self.folder.name}, {len(self.kills):2}: {' at '.join(self.kills[-1])}; {len(self.ledger)} records")
        if kind == "driver":
            run.process.wait()
            if self.rng.random() < 0.5:  # otherwise the next driver starts while the workers live
                self.orphaned.append(self._seconds_until(lambda: not run.workers()))
        elif kind == "raylet":
            self.hung.append(self._seconds_until(lambda: run.process.poll() is not None))

    def _moment(self, name: str, run: Run) -> Callable[[], bool]:
        """Return a condition that becomes true at a moment of this kind."""
        delay, start = self.rng.uniform(0, 6), time.monotonic()
        if name == "start-up":
            return lambda: time.monotonic() - start > delay
        if name == "any":
            return lambda: bool(run.workers()) and time.monotonic() - start > delay
        ending = self.rng.choice(["ledger/*/*.json", "models/*/.*.part", "models/*/seed*", "ledger/*/.*"])
        patterns = {"targets": "checkpoints/*/maps*", "epoch": "checkpoints/*/*.safetensors", "ending": ending}
        before = self._newest(patterns[name])
        return lambda: self._newest(patterns[name]) > before

    def _newest(self, pattern: str) -> float:
        """Return the time of the last change among files."""
        times = [0.0]
        for path in self.store.glob(pattern):
            with suppress(FileNotFoundError):  # deleted after it was listed
                times.append(path.stat().st_mtime)
        return max(times)

    def _wait(self, condition: Callable[[], bool], run: Run) -> bool:
        """Wait for a condition. Returns whether it became true before the run ended."""
        deadline = time.monotonic() + STUCK
        while not condition():
            if run.process.poll() is not None:
                return False
            self._check_ledger()
            assert time.monotonic() < deadline, f"no progress for {STUCK} s: {self.log()}"
            time.sleep(0.02)
        return True

    def _check_ledger(self) -> None:
        """Check that no record is ever written a second time."""
        stats = {path: path.stat() for path in self.store.glob("ledger/*/*.json")}
        now = {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}
        assert now.items() >= self.ledger.items(), f"written again: {dict(self.ledger.items() - now.items())}"
        self.ledger = now

    def _seconds_until(self, condition: Callable[[], bool]) -> float:
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < MAX_HANG, f"not over after {MAX_HANG} s: {self.log()}"
            time.sleep(0.05)
        return time.monotonic() - start

    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    # ---------------------------------------------------------------------- results
    def count_repeated_epochs(self) -> int:
        """Return how many whole epochs ran twice: at most one per worker that died."""
        repeated = 0
        for trial in self.store.glob("tensorboard/*/*/"):
            ran = [steps for steps in epochs(trial) if steps]
            for earlier, later in pairwise(ran):
                twice = earlier[-1] - later[0] + 1
                assert 0 <= twice <= 1, f"{trial.name}: epochs {earlier}, then {later}"
                repeated += twice
            steps = sorted({step for steps in ran for step in steps})
            assert steps == list(range(1, EPOCHS + 1)), f"{trial.name}: {ran}"
        return repeated

    def ran_after_record(self) -> list[str]:
        """Return the trials that a worker started although they had a record."""
        late = []
        for path in self.store.glob("ledger/*/*.json"):
            arm, key, recorded = path.parent.name, path.stem[:6], path.stat().st_mtime
            starts = [int(event.name.split(".")[3]) for event in self.store.glob(f"tensorboard/{arm}/*-{key}/events.*")]
            if any(start > recorded + 1 for start in starts):
                late.append(str(path))
        return late

    def check(self, reference: Kept, *, in_order: bool) -> None:
        """Check that the store equals the reference's."""
        content = Kept(self.store)
        difference = content.difference(reference, in_order=in_order)
        assert difference == [], difference
        assert content.shape() == reference.shape(), content.shape()
        leftovers, late = content.leftovers(), self.ran_after_record()
        assert (leftovers, late) == ([], []), (leftovers, late)


def run_rounds(folder: Path, kills: int, seed: int) -> list[Round]:
    """Finish rounds until there were so many kills, and check each against a run without kills in one process."""
    rng, cores = random.Random(seed), os.cpu_count() or 1
    references: dict[int, Kept] = {}
    rounds: list[Round] = []
    while (left := kills - sum(len(finished.kills) for finished in rounds)) > 0:
        in_order = len(rounds) % 2 == 0
        cpus = cores if in_order else max(1, cores // 2)
        if cpus not in references:
            reference = Round(folder / f"reference-{cpus}", cpus, rng)
            reference.finish(0, "--cluster", "in-process")
            references[cpus] = Kept(reference.store)
        rounds.append(Round(folder / f"round-{len(rounds)}", cpus, rng))
        rounds[-1].finish(min(left, kills // 2))
        rounds[-1].check(references[cpus], in_order=in_order)
    return rounds
