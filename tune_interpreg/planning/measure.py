"""Measure a study's work on this machine: the least time of several repetitions of the real code.

As many processes measure at once as workers would run, because cores share memory and processes share a GPU. A worker
with one core is timed by its processor time, so that a process of somebody else that takes the core away now and then
does not count. Test images are not touched: the final evaluation is timed on training images.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
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
from tune_interpreg.data.dataset import Split, load_dataset, to_pixels
from tune_interpreg.evaluation.honesty import list_checks
from tune_interpreg.evaluation.interpretability import measure_interpretability
from tune_interpreg.evaluation.measures import measure_accuracy, measure_adversarial_accuracy, measure_gradient_norms
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.gradients.saliency import smoothgrad
from tune_interpreg.networks import weights
from tune_interpreg.planning.costs import Piece, Seconds, copy_of, probe_job, unit_of
from tune_interpreg.schedule.graph import attack_sources
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, MapSettings, Model, Study
from tune_interpreg.study.items import Job
from tune_interpreg.study.measures import (
    AccuracyMeasure,
    AutoAttackMeasure,
    ChecksMeasure,
    CompatMeasure,
    InterpretabilityMeasure,
    Measure,
    StrictMeasure,
)
from tune_interpreg.training.device import read_peak_memory

#: Repeat a measurement for SECONDS after a first run, but not at all if that takes longer than LONG seconds.
SECONDS, LONG = 0.2, 1.5

#: Seconds of training per repetition: a single step may be too short for the clock.
TRAINING = 0.2

#: Batches that the probe learns, and the seconds that it has for that.
BATCHES, PATIENCE = 16, 4.0

#: Images per measurement: of PGD on a CPU, which takes this many at once; of maps, with COPIES each.
PGD, MAPS, COPIES = 128, 256, 2

#: Most images at which AutoAttack is timed, and the part of its iterations. Fewer images would not fill its batches.
AUTOATTACK, EFFORT = 200, 0.03

#: Parts of the checked images for which the checks are timed, if those of the first part take LONG seconds or more.
CHECKED = (0.2, 0.4)

#: The radius at which an attack breaks no image, relative to its own.
HARMLESS = 1e-3


class MeasurementError(StoreError):
    """Work that cannot be measured; the message names it."""


@dataclass(frozen=True)
class Measurement:
    """The seconds of a study's work, and the resources of the processes that measured it.

    start: processor seconds until a worker has its images. memory, gpu_memory: bytes of the largest process.
    took: seconds of the measurement. workers: processes at once. load: cores that other processes kept busy.
    """

    seconds: Seconds
    start: float
    memory: int
    gpu_memory: int
    took: float = 0.0
    workers: int = 1
    load: float = 0.0


def measure(study: Study, pieces: Sequence[Piece], *, workers: int) -> Measurement:
    """Measure pieces of work in ``workers`` processes at once, and return the means over these.

    Raises ``MeasurementError`` if some work fails.
    """
    threads = max(1, int(study.resources.cpus))
    before, started = os.getloadavg()[0], time.time()
    silent = (signal.SIGINT, signal.SIG_DFL)  # an interrupted process prints no traceback
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, silent) as pool:
        try:
            futures = [pool.submit(measure_here, study, pieces, threads) for _ in range(workers)]
            reports = [future.result() for future in futures]
        except BrokenProcessPool:
            raise MeasurementError("a process of the measurement was killed; free memory, or lower --workers") from None
        except BaseException:
            for child in active_children():
                child.terminate()
            raise
    took = time.time() - started
    return Measurement(
        seconds={key: fmean(report.seconds[key] for report in reports) for key in reports[0].seconds},
        start=fmean(report.start for report in reports),
        memory=max(report.memory for report in reports),
        gpu_memory=max(report.gpu_memory for report in reports),
        took=took,
        workers=workers,
        load=load_of_others(before, os.getloadavg()[0], took, workers * threads),
    )


def load_of_others(before: float, after: float, seconds: float, threads: int) -> float:
    """Return the mean number of threads of other processes that were ready to run, from load averages.

    A load average L follows the number n of such threads with a time constant of a minute. After t seconds at n, it is
    L_after = L_before·e^(−t/60) + n·(1 − e^(−t/60)); ``threads`` of the n are our own.
    """
    decay = math.exp(-seconds / 60)
    return max(0.0, (after - decay * before) / (1 - decay) - threads)


def measure_here(study: Study, pieces: Sequence[Piece], threads: int) -> Measurement:
    """Measure pieces of work in this process."""
    torch.set_num_threads(threads)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    seconds: Seconds = {}
    gpu_memory = 0
    with TemporaryDirectory() as folder:
        bench = Bench(study, Store(folder))
        for name, work in _list_work(bench, pieces).items():
            try:
                seconds |= work()
            except Exception as error:
                raise MeasurementError(
                    f"{name} cannot be measured: {type(error).__name__}: {error}; "
                    "run the study with --cluster in-process to see where it fails"
                ) from None
            gpu_memory = max(gpu_memory, read_peak_memory(bench.device) or 0)
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return Measurement(seconds, bench.start, int(peak[1]) * 1024 if peak else 0, gpu_memory)


def _list_work(bench: Bench, pieces: Sequence[Piece]) -> dict[str, Callable[[], Seconds]]:
    """Return the different kinds of work by name. Arms with the same method and options share one."""
    jobs: dict[str, Job] = {}
    asked: dict[str, tuple[Measure, Model]] = {}
    work: dict[str, Callable[[], Seconds]] = {}
    for piece in pieces:
        if isinstance(piece.content, Job):
            jobs.setdefault(piece.content.key, piece.content)
        elif isinstance(piece.content, MapSettings):
            work[f"a set of maps of {piece.model.name}: {copy_of(piece.model)}"] = partial(
                bench.measure_maps, piece.content, piece.model
            )
        else:
            asked[unit_of(piece.content.measure, piece.model)] = piece.content.measure, piece.model
    for job in jobs.values():
        observed: tuple[Measure, ...] = (AccuracyMeasure(), job.observation.strict)
        asked |= {unit_of(measure, job.recipe.model): (measure, job.recipe.model) for measure in observed}
    for unit, (measure, model) in asked.items():
        work[f"the measure {measure.kind}: {unit}"] = partial(bench.measure_judging, measure, model)
    for job in jobs.values():
        work[f"the training of {job.arm} (seeds at once: {len(job.seeds)})"] = partial(bench.measure_training, job)
    return work


class Bench:
    """Times work on the study's images, with a model of each network that is trained first."""

    def __init__(self, study: Study, store: Store):
        self.study, self.store, self.device = study, store, "cuda" if study.resources.gpus else "cpu"
        alone = self.device == "cpu" and torch.get_num_threads() == 1
        self.clock = time.thread_time if alone else time.perf_counter
        data = load_dataset(study.data)
        self.start = time.process_time()
        self.train, self.validation = data.train.to(self.device), data.validation.to(self.device)
        self._probes: dict[str, nn.Module] = {}

    def probe(self, network: Model) -> nn.Module:
        """Return a trained model of a network."""
        name = network.model_dump_json()
        if name not in self._probes:
            self._probes[name] = self._train_probe(network)
        return self._probes[name]

    def _train_probe(self, network: Model) -> nn.Module:
        """Train until the model knows a few batches: how long an attack takes depends on how many images it breaks."""
        training = self._start(probe_job(self.study, network), BATCHES)
        model: nn.Module = training.trainer.replicas[0].model
        until = time.perf_counter() + PATIENCE
        while time.perf_counter() < until and measure_accuracy(model, training.data.train, MAPS) < 0.95:
            training.step()
        return model

    def measure_training(self, job: Job) -> Seconds:
        training = self._start(job, 1)
        first = self._time(training.step)  # a GPU captures its steps here
        step = single = self._shortest(training.step)
        steps = min(round(TRAINING / single), len(self.train) // job.recipe.training.batch_size)
        if steps > 1:
            step = (self._shortest(self._start(job, steps).step) - single) / (steps - 1)
        seconds = {"setup": first - single, "epoch": single - step, "step": step}
        return {f"{job.key}/{unit}": max(0.0, value) for unit, value in seconds.items()}

    def _start(self, job: Job, batches: int) -> Any:
        """Return the Trainable of a training as a worker starts it, with a few batches and one image to validate."""
        recipe, size = job.recipe, job.recipe.training.batch_size
        limit = size * max(1, min(batches, len(self.train) // size))
        data = recipe.data.model_copy(update={"train_limit": limit, "validation": 1})
        recipe = recipe.model_copy(update={"data": data})
        models = tuple(model.model_copy(update={"recipe": recipe}) for model in job.models)
        observation = job.observation.model_copy(update={"every": 0})
        job = job.model_copy(update={"models": models, "observation": observation})
        if recipe.maps:  # random ones, because real maps need a trained teacher
            file = self.store.maps_file(recipe.maps.key)
            file.parent.mkdir(parents=True, exist_ok=True)
            maps_NCHW = np.random.default_rng(0).random((limit, *self.train.x_NCHW.shape[1:]))
            np.save(file, maps_NCHW.astype(np.float16))
        if recipe.teacher:
            file = self.store.model_file(recipe.teacher.key)
            file.parent.mkdir(parents=True, exist_ok=True)
            weights.save(self.probe(recipe.teacher.model), file, recipe.teacher.model)
        self.store.note_start(job)
        return registry.load_method(recipe.method)(worker_config(job, self.store, self.device))

    # ---------------------------------------------------------------- models that are trained
    def measure_judging(self, measure: Measure, network: Model) -> Seconds:
        """Time a measure per image, of the checks per model. An attack takes longer on a model that it cannot break."""
        return {unit_of(measure, network): self._time_judging(measure, self.probe(network))}

    def _time_judging(self, measure: Measure, model: nn.Module) -> float:
        if isinstance(measure, ChecksMeasure):
            return self._time_checks(measure, model)
        size = self.study.evaluation.batch_size
        settings: dict[str, Any] = {"seed": 0, "batch_size": size}
        images = self._rows(size if self.device == "cuda" else min(PGD, size))
        work: Callable[[], object]
        if isinstance(measure, AutoAttackMeasure):
            images, ball = self._rows(min(AUTOATTACK, size, measure.images)), Attack(norm=measure.norm, eps=measure.eps)
            ensemble = partial(autoattack.measure_adversarial_accuracy, model, images, effort=EFFORT, **settings)
            return self._mean_of_extremes(lambda attack: ensemble(attack=attack), ball) / len(images) / EFFORT
        if isinstance(measure, StrictMeasure | CompatMeasure):
            pgd = partial(measure_adversarial_accuracy, model, images, form=measure.kind, **settings)
            attacked = partial(pgd, restarts=measure.restarts)
            seconds = self._mean_of_extremes(lambda attack: attacked(attack=attack), measure.attack)
            return seconds / len(images)
        if isinstance(measure, InterpretabilityMeasure):
            options: dict[str, Any] = {"maps": {}, "with_deletion": measure.deletion}
            work = partial(measure_interpretability, model, images, **options, **settings)
        else:
            function = measure_accuracy if isinstance(measure, AccuracyMeasure) else measure_gradient_norms
            work = partial(function, model, images, size)
        return self._shortest(work) / len(images)

    def measure_maps(self, maps: MapSettings, network: Model) -> Seconds:
        rows, settings = self._rows(MAPS), maps.model_copy(update={"samples": COPIES, "include_clean": False})
        x_BCHW, generator = to_pixels(rows.x_NCHW), seeding.generator(0, "smoothgrad", self.device)
        options: dict[str, Any] = {"settings": settings, "generator": generator, "chunk": 1}
        model = self.probe(network)
        seconds = self._shortest(lambda: smoothgrad(model, x_BCHW, rows.y_N, **options).cpu())
        return {copy_of(network): seconds / COPIES / len(rows)}

    def _time_checks(self, measure: ChecksMeasure, model: nn.Module) -> float:
        """Return the seconds of all checks of one model: a constant, and a part that grows with the images."""
        images = min(measure.images, len(self.validation))
        few, more = (math.ceil(part * images) for part in CHECKED)

        def check(n: int, attack: Attack) -> None:
            subject = Subject(
                model,
                self.validation.at(slice(0, n)),
                attack,
                seed=0,
                batch_size=measure.batch_size,
                restarts=measure.restarts,
                sources=dict.fromkeys(attack_sources(self.study), model),
                ensemble=measure.autoattack and min(measure.autoattack, n),
            )
            for function in list_checks(measure.autoattack):
                function(subject)

        if self._time(partial(check, few, measure.attack)) < LONG:
            return self._mean_of_extremes(partial(check, images), measure.attack, self._time)
        base = self._mean_of_extremes(partial(check, few), measure.attack)
        growth = self._mean_of_extremes(partial(check, more), measure.attack) - base
        return base + max(0.0, growth) * (images - few) / max(1, more - few)

    def _rows(self, images: int) -> Split:
        rows_N = torch.arange(images, device=self.train.y_N.device) % len(self.train)
        return self.train.at(rows_N)

    # ---------------------------------------------------------------------------- the clock
    def _mean_of_extremes(
        self, work: Callable[[Attack], object], attack: Attack, timed: Callable[..., float] | None = None
    ) -> float:
        """Return the mean of the seconds of work with an attack, and with one that breaks nothing.

        timed: takes the seconds of one of them; None: ``_shortest``.
        """
        harmless = attack.model_copy(update={"eps": HARMLESS * attack.eps})
        return fmean((timed or self._shortest)(partial(work, extreme)) for extreme in (attack, harmless))

    def _shortest(self, work: Callable[[], object]) -> float:
        """Return the least seconds of several runs, after a first one that fills caches."""
        first = self._time(work)
        if first > LONG:
            return first
        times: list[float] = []
        while sum(times) < SECONDS:
            times.append(self._time(work))
        return min(times)

    def _time(self, work: Callable[[], object]) -> float:
        started = self.clock()
        work()
        return self.clock() - started
