"""Measure pieces of a study's work on this machine: the least time of several repetitions of the real code.

As many processes measure at once as workers would run, because cores share memory and processes share a GPU. A worker
with one core is timed by its processor time, so that a process of somebody else that takes the core away now and then
does not count. Test images are not touched: the final evaluation is timed on training images.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from tune_interpreg import registry, seeding
from tune_interpreg.attacks import autoattack
from tune_interpreg.cluster.worker import worker_config
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.evaluation.honesty import CHECKS
from tune_interpreg.evaluation.measures import measure_accuracy, measure_adversarial_accuracy, measure_gradient_norms
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.gradients.saliency import smoothgrad
from tune_interpreg.planning.costs import MODEL, Piece
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack
from tune_interpreg.study.items import Item
from tune_interpreg.training.trainer import Diverged, Trainer

#: Repeat a measurement for SECONDS and LEAST times, but not for longer than LONG seconds.
SECONDS, LEAST, LONG = 0.6, 3, 2.0

#: Seconds of training per repetition: a single step may be too short for the clock.
TRAINING = 0.1

#: Batches that the probe learns, and the seconds that it has for that.
BATCHES, PATIENCE = 16, 4.0

#: Seconds up to which the checks of all images are timed, instead of those of a few.
WHOLE = 8.0

#: Images per measurement: of PGD on a CPU, which takes this many at once; of AutoAttack; of maps; of checks.
PGD, AUTOATTACK, MAPS, CHECKED = 128, 4, 512, (20, 40)

#: Noisy copies per measured map, and the radius at which an attack breaks no image, relative to its own.
COPIES, HARMLESS = 2, 1e-3

#: Seconds by unit, as ``Piece`` names them.
Seconds = dict[str, float]


class MeasurementError(StoreError):
    """A piece of work that cannot be measured; the message names it."""


@dataclass(frozen=True)
class Hardware:
    """The threads of a worker, and its device: cpu or cuda."""

    threads: int
    device: str


@dataclass(frozen=True)
class Measurement:
    """The seconds of pieces of work, and what their processes took.

    seconds: key of a piece → unit → seconds. start: processor seconds until a worker has its images.
    memory, gpu_memory: bytes of the largest process. took: seconds of the measurement. workers: processes at once.
    load: cores that other processes kept busy meanwhile.
    """

    seconds: dict[str, Seconds]
    start: float
    memory: int
    gpu_memory: int
    took: float
    workers: int
    load: float


def measure(pieces: Mapping[str, Piece], probe: Item, hardware: Hardware, *, workers: int) -> Measurement:
    """Measure every piece in ``workers`` processes at once and return the means over these.

    Args:
        probe: the training of the model that is judged, explained and checked.
    Raises:
        MeasurementError: a piece of work fails.
    """
    before, started = os.getloadavg()[0], time.time()
    with _open_pool(workers) as pool:
        turns = [n / workers for n in range(workers)]
        futures = [pool.submit(_measure_here, [*pieces.values()], probe, hardware, turn) for turn in turns]
        try:
            reports = [future.result() for future in futures]
        except BrokenProcessPool:
            raise MeasurementError("a process of the measurement was killed; free memory, or lower --workers") from None
    took = time.time() - started
    return Measurement(
        seconds={
            key: {unit: fmean(report.seconds[key][unit] for report in reports) for unit in reports[0].seconds[key]}
            for key in pieces
        },
        start=fmean(report.start for report in reports),
        memory=max(report.memory for report in reports),
        gpu_memory=max(report.gpu_memory for report in reports),
        took=took,
        workers=workers,
        load=load_of_others(before, os.getloadavg()[0], took, workers * hardware.threads),
    )


def load_of_others(before: float, after: float, seconds: float, threads: int) -> float:
    """Return the mean number of threads of other processes that were ready to run, from load averages.

    A load average L follows the number n of such threads with a time constant of a minute. After t seconds at n, it is
    L_after = L_before·e^(−t/60) + n·(1 − e^(−t/60)); ``threads`` of the n are our own.
    """
    decay = math.exp(-seconds / 60)
    return max(0.0, (after - decay * before) / (1 - decay) - threads)


@contextmanager
def _open_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of processes that end silently if this one is interrupted."""
    silent = (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, silent) as pool:
        try:
            yield pool
        except BaseException:
            for child in active_children():
                child.terminate()
            raise


# ------------------------------------------------------------------ in a process of its own
@dataclass(frozen=True)
class _Report:
    """The measurement of one process. start: processor seconds until it had loaded its images."""

    seconds: dict[str, Seconds]
    start: float
    memory: int
    gpu_memory: int


def _measure_here(pieces: list[Piece], probe: Item, hardware: Hardware, turn: float) -> _Report:
    """Measure the pieces in turn, beginning at the fraction ``turn`` of the list."""
    torch.set_num_threads(hardware.threads)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    first = int(turn * len(pieces))
    with TemporaryDirectory() as folder:
        bench = _Bench(Store(folder), probe, hardware)
        start, seconds = time.process_time(), {}
        bench.train_probe()
        for piece in [*pieces[first:], *pieces[:first]]:
            try:
                seconds[piece.key] = bench.measure(piece)
            except Exception as error:
                raise MeasurementError(
                    f"{piece.title} cannot be measured: {type(error).__name__}: {error}; "
                    "run the study with --cluster in-process to see where it fails"
                ) from None
    gpu_memory = torch.cuda.max_memory_reserved() if hardware.device == "cuda" else 0
    return _Report(seconds, start, _peak_memory(), gpu_memory)


def _peak_memory() -> int:
    """Return the most bytes that this process held, 0 if unknown."""
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak[1]) * 1024 if peak else 0


class _Bench:
    """Times pieces of work on the study's images, with a model that is trained first."""

    def __init__(self, store: Store, probe: Item, hardware: Hardware):
        self.store, self.hardware = store, hardware
        alone = hardware.device == "cpu" and hardware.threads == 1
        self.clock = time.thread_time if alone else time.perf_counter
        self.probe = self._start(probe)
        self.data = self.probe.data

    def train_probe(self) -> None:
        """Train until the model knows a few batches: how long an attack takes depends on how many images it breaks."""
        self._limit(self.probe, BATCHES)
        until = time.perf_counter() + PATIENCE
        images = self.probe.trainer.data.train
        with suppress(Diverged):
            while time.perf_counter() < until and measure_accuracy(self.model, images, MAPS) < 0.95:
                self.probe.trainer.run_epoch()

    @property
    def model(self) -> nn.Module:
        model: nn.Module = self.probe.trainer.replicas[0].model
        return model

    def measure(self, piece: Piece) -> Seconds:
        methods = {
            "training": self._measure_training,
            "judging": self._measure_judging,
            "maps": self._measure_maps,
            "checks": self._measure_checks,
        }
        return methods[piece.kind](piece.item)

    # ------------------------------------------------------------------------ trainings
    def _measure_training(self, item: Item) -> Seconds:
        if item.recipe.maps:
            self._write_maps(item.recipe.maps.key)
        self._stop(self._start(item))
        started = self.clock()
        training = self._start(item)
        setup = self.clock() - started

        def run_epoch() -> None:
            with suppress(Diverged):  # after many epochs on few images; the time is the same
                training.trainer.run_epoch()

        self._limit(training, 1)
        first = self._time(run_epoch)  # a GPU captures its steps here
        step = self._shortest(run_epoch)
        capture = first - step if self.hardware.device == "cuda" else 0.0
        epoch = self._shortest(training.step) - step
        batches = round(min(TRAINING / step, len(self.data.train) // item.recipe.training.batch_size))
        if batches > 1:
            self._limit(training, batches)
            step = self._shortest(run_epoch) / batches
        self._stop(training)
        return {"setup": setup + max(0.0, capture), "epoch": max(0.0, epoch), "step": step}

    def _start(self, item: Item) -> Any:
        """Return the Trainable of a training as a worker starts it, with a log of its own."""
        item = item.model_copy(update={"arm": f"{MODEL}-{time.monotonic_ns()}"})
        self.store.drop_checkpoint(item.key)
        self.store.note_start(item)
        return registry.load_method(item.recipe.method)(worker_config(item, self.store, self.hardware.device))

    def _limit(self, training: Any, batches: int) -> None:
        """Let a training's epoch have this many batches, and one image to validate."""
        recipe, data = training.recipe, self.data
        rows = torch.arange(batches * recipe.training.batch_size) % len(data.train)
        training.data = replace(data, train=data.train.at(rows), validation=data.validation.at(slice(0, 1)))
        training.trainer = Trainer(
            model=recipe.model,
            training=recipe.training,
            data=training.data,
            terms=training.terms,
            seeds=training.item.seeds,
            guidance=training.trainer.guidance,
            device=self.hardware.device,
        )

    def _stop(self, training: Any) -> None:
        training.cleanup()
        shutil.rmtree(training.logdir, ignore_errors=True)

    def _write_maps(self, key: str) -> None:
        """Write random maps for all training images: real ones need a trained teacher."""
        file, shape = self.store.maps_file(key), tuple(self.data.train.x_NCHW.shape)
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        maps_NCHW = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
        for first in range(0, shape[0], MAPS):
            block = maps_NCHW[first : first + MAPS]
            block[:] = np.random.default_rng(first).random(block.shape, np.float32)
        maps_NCHW.flush()

    # ---------------------------------------------------------------- models that are trained
    def _measure_judging(self, item: Item) -> Seconds:
        evaluation, attack = item.recipe.evaluation, item.recipe.evaluation_attack
        batch = self._rows(evaluation.batch_size)
        images = batch if self.hardware.device == "cuda" else self._rows(min(PGD, evaluation.batch_size))

        def attack_images(form: str) -> float:
            settings: dict[str, Any] = {"attack": attack, "seed": 0, "restarts": evaluation.restarts}
            settings |= {"form": form, "batch_size": evaluation.batch_size}
            seconds = self._shortest(lambda: measure_adversarial_accuracy(self.model, images, **settings))
            return seconds / len(images)

        def attack_few(attack: Attack) -> float:
            few = self._rows(AUTOATTACK)
            settings: dict[str, Any] = {"attack": attack, "seed": 0, "batch_size": evaluation.batch_size}
            seconds = self._shortest(lambda: autoattack.measure_adversarial_accuracy(self.model, few, **settings))
            return seconds / len(few)

        compat = attack_images("compat")
        clean = self._shortest(lambda: measure_accuracy(self.model, batch, evaluation.batch_size))
        norms = self._shortest(lambda: measure_gradient_norms(self.model, batch, evaluation.batch_size))
        return {
            "clean": clean / len(batch),
            "norms": norms / len(batch),
            "compat": compat,
            # The strict attack stops at an image once it is broken. Trained models lie between the probe, which is
            # easily broken, and a model that is never broken, with the cost of compat.
            "strict": (compat + attack_images("strict")) / 2,
            "autoattack": self._mean_of_extremes(attack_few, attack) if evaluation.autoattack else 0.0,
        }

    def _measure_maps(self, item: Item) -> Seconds:
        maps, rows = item.recipe.maps, self._rows(MAPS)
        assert maps is not None
        few = maps.model_copy(update={"samples": min(maps.samples, COPIES)})
        x_BCHW, generator = to_pixels(rows.x_NCHW), seeding.generator(0, "smoothgrad", self.hardware.device)
        seconds = self._shortest(
            lambda: smoothgrad(self.model, x_BCHW, rows.y_N, settings=few, generator=generator, chunk=1).cpu()
        )
        copies = (maps.samples + maps.include_clean) / (few.samples + few.include_clean)
        return {"image": copies * seconds / len(rows)}

    def _measure_checks(self, item: Item) -> Seconds:
        """Time all checks of one model; one of them takes the same batches whatever the number of images."""
        recipe, checked = item.recipe, item.recipe.checked
        assert checked is not None
        images = min(checked.images, len(self.data.validation))

        def check_all(n: int, attack: Attack) -> float:
            def check() -> None:
                subject = Subject(
                    self.model,
                    self.data.validation.at(slice(0, n)),
                    attack,
                    seed=0,
                    batch_size=recipe.evaluation.batch_size,
                    restarts=recipe.evaluation.restarts,
                    sources=dict.fromkeys(checked.sources, self.model),
                    ensemble=checked.autoattack and min(checked.autoattack, n),
                )
                for function in CHECKS:
                    function(subject)

            return self._shortest(check)

        def check_images(attack: Attack) -> float:
            few, more = (min(n, images) for n in CHECKED)
            base = check_all(few, attack)
            if more == images or base * images / few < WHOLE:
                return check_all(images, attack)
            return base + (images - few) * max(0.0, check_all(more, attack) - base) / (more - few)

        return {"model": self._mean_of_extremes(check_images, recipe.evaluation_attack)}

    @staticmethod
    def _mean_of_extremes(measure_attack: Callable[[Attack], float], attack: Attack) -> float:
        """Return the mean of an attack's seconds at the probe, and of an attack that breaks nothing."""
        harmless = attack.model_copy(update={"eps": HARMLESS * attack.eps})
        return (measure_attack(attack) + measure_attack(harmless)) / 2

    def _rows(self, images: int) -> Split:
        rows_N = torch.arange(images, device=self.data.train.y_N.device) % len(self.data.train)
        return self.data.train.at(rows_N)

    # ---------------------------------------------------------------------------- the clock
    def _shortest(self, work: Callable[[], object]) -> float:
        """Return the least seconds of several runs, after a first one that fills caches."""
        first = self._time(work)
        if first > LONG:
            return first
        times: list[float] = []
        while sum(times) < SECONDS or (len(times) < LEAST and sum(times) < LONG):
            times.append(self._time(work))
        return min(times)

    def _time(self, work: Callable[[], object]) -> float:
        started = self.clock()
        work()
        return self.clock() - started
