"""What takes how long: a few steps of real trainings, attacks, maps and checks, and the whole reckoned from these.

Each function does one kind of piece, in a store of its own, and gives its seconds by name. Test images are not touched:
the final evaluation is timed on training images.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tune_interpreg import registry, seeding
from tune_interpreg.attacks import autoattack
from tune_interpreg.attacks.pgd import Form
from tune_interpreg.cluster.worker import worker_config
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.evaluation.measures import measure_accuracy, measure_adversarial_accuracy, measure_gradient_norms
from tune_interpreg.gradients import saliency
from tune_interpreg.planning.pieces import MODEL, Piece
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Checked, Item
from tune_interpreg.training.trainer import Diverged, Trainer

#: What takes no longer than WHOLE seconds, if all parts took as long as the first ones, is done whole, RUNS times where
#: that takes less than SECONDS.
WHOLE, SECONDS, RUNS = 8.0, 1.0, 3

#: Of what takes longer, parts are done that take SECONDS or more, and SPAN times as many as at first, which tells what
#: comes on top of the parts, unless that takes LONG seconds.
SPAN, LONG = 4, 3.0

#: The probe trains on so many batches until it has learnt them, or for so many seconds.
BATCHES, LEARNT, PATIENCE = 16, 0.95, 5.0

#: Images that an attack, and all checks, are first timed on, as fewer tell little of more; those that have maps made at
#: once.
FEW, MANY, BLOCK = 8, 40, 512

#: Of one piece, by name.
Seconds = dict[str, float]


def begin(probe: Item, store: Store, device: str) -> None:
    """Import what trains, and read the images."""
    _leave(_made(probe, store, device))


def train_probe(probe: Item, store: Store, device: str) -> None:
    """Train a model until it answers as trained ones do, which decides how many images an attack has to go on with."""
    made, started = _made(probe, store, device, BATCHES), time.perf_counter()
    model, learnt = made.trainer.replicas[0].model, made.trainer.data.train
    with suppress(Diverged):
        while time.perf_counter() - started < PATIENCE and measure_accuracy(model, learnt, BLOCK) < LEARNT:
            made.trainer.run_epoch()
    with store.writing(store.model_file(MODEL, 0)) as temporary:
        save_file(model.state_dict(), temporary)
    _leave(made)


def _training(piece: Piece, store: Store, device: str) -> Seconds:
    """``setup`` where the images are read already, and an ``epoch`` with its validation, log and checkpoint."""
    first = _made(piece.item, store, device)
    steps, started = first.trainer.steps, time.perf_counter()
    _leave(_made(piece.item, store, device))
    setup = time.perf_counter() - started
    _leave(first)

    def epoch(batches: int) -> Callable[[], object]:
        made = _made(piece.item, store, device, batches)
        made.step()  # a first one prepares what later ones find
        return made.step

    return {"setup": setup, "epoch": whole(epoch, steps)}


def _judging(piece: Piece, store: Store, device: str) -> Seconds:
    """A ``validation`` under attack, and the ``final`` evaluation.

    The strict attack lets go of images that it has broken; how many those are depends on the arm. It is taken to cost
    half-way between what it costs at the probe, which is not robust, and what it costs where no image breaks.
    """
    judged, recipe = _Judged.of(piece, store, device), piece.item.recipe
    own, settings = recipe.evaluation, dict[str, Any](attack=recipe.evaluation_attack, seed=0)

    def attacked(form: Form) -> float:
        more = settings | {"form": form, "batch_size": own.batch_size, "restarts": own.restarts}
        return judged.timed(partial(measure_adversarial_accuracy, **more), piece.tests)

    norms = judged.timed(
        partial(measure_gradient_norms, batch_size=own.batch_size), own.gradient_samples or len(judged.train)
    )
    auto = partial(autoattack.adversarial_accuracy, batch_size=own.batch_size, **settings)
    ensemble = judged.timed(auto, own.autoattack) if own.autoattack else 0.0
    compat = attacked("compat")
    strict = (compat + attacked("strict")) / 2
    validation = strict * judged.validation / piece.tests
    return {"validation": validation, "final": compat + strict + norms + ensemble}


def _maps(piece: Piece, store: Store, device: str) -> Seconds:
    """The maps of ``all`` training images."""
    judged, maps = _Judged.of(piece, store, device), piece.item.recipe.maps
    assert maps is not None
    generator = seeding.generator(0, "smoothgrad", device)

    def made(model: nn.Module, rows: Split) -> None:
        for x_BCHW, y_B in zip(rows.x_NCHW.split(BLOCK), rows.y_N.split(BLOCK), strict=True):
            saliency.smoothgrad(model, to_pixels(x_BCHW), y_B, settings=maps, generator=generator, chunk=1).cpu()

    return {"all": judged.timed(made, len(judged.train))}


@dataclass(frozen=True)
class _Judged:
    """The probe, and the images that it is judged on. validation: how many there are of these."""

    model: nn.Module
    train: Split
    validation: int

    @classmethod
    def of(cls, piece: Piece, store: Store, device: str) -> _Judged:
        checked = Checked(model=MODEL, seed=0, images=1)
        recipe = piece.item.recipe.model_copy(update={"method": "checks", "maps": None, "checked": checked})
        stage = _stage(piece.item.model_copy(update={"recipe": recipe, "role": "checks"}), store, device)
        images = stage.job.dataset()
        _leave(stage)
        return cls(stage.subject.model, images.train, len(images.validation))

    def timed(self, measured: Callable[[nn.Module, Split], object], full: int) -> float:
        """Seconds of what is measured of ``full`` images."""

        def of(n: int) -> Callable[[], object]:
            rows_N = torch.arange(n, device=self.train.y_N.device) % len(self.train)
            return partial(measured, self.model, self.train.at(rows_N))

        return whole(of, full, FEW)


def _checks(piece: Piece, store: Store, device: str) -> Seconds:
    """``all`` checks of one model.

    One of them attacks a twentieth of the images at once: of less than MANY that is one by one, which tells little of
    more. Where few images take long already, it is their number that counts, and not how many are attacked at once.
    """
    checked = piece.item.recipe.checked
    assert checked is not None

    def checks(images: int) -> Callable[[], object]:
        fewer = piece.item.recipe.model_copy(update={"checked": checked.model_copy(update={"images": images})})
        return partial(_all_checks, piece.item.model_copy(update={"recipe": fewer}), store, device)

    few = min(FEW, checked.images)
    return {"all": whole(checks, checked.images, few if _often(checks(few)) > LONG else MANY)}


def _all_checks(item: Item, store: Store, device: str) -> None:
    stage = _stage(item, store, device)
    while "record" not in stage.step():
        pass
    _leave(stage)


TIMED: Mapping[str, Callable[..., Seconds]] = {
    "training": _training,
    "judging": _judging,
    "maps": _maps,
    "checks": _checks,
}


# ------------------------------------------------------------------------ from parts to all
def whole(parts: Callable[[int], Callable[[], object]], full: int, first: int = 1) -> float:
    """Seconds of ``full`` parts, reckoned from n of them where that many would take long.

    T(full) = T(n) + (full − n)·(T(n) − T(m))/(n − m), with m the ``first`` parts and n doubled until T(n) tells enough.

    Args:
        parts: gives the work of so many parts, ready to be done again and again.
    """
    n = m = min(first, full)
    before = after = _often(parts(m))
    while n < full and ((short := after * full / n <= WHOLE) or after < SECONDS or (n < SPAN * m and after < LONG)):
        n = full if short else min(2 * n, full)
        after = _often(parts(n))
    rate = (after - before) / (n - m) if n > m else after / n
    return after + (full - n) * max(rate, 0.0)


def _often(work: Callable[[], object]) -> float:
    """The median of some runs, or the time of one that is long."""
    taken = [_seconds(work)]
    while len(taken) < RUNS and sum(taken) < SECONDS:
        taken.append(_seconds(work))
    return median(taken)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# ----------------------------------------------------------------------- the real parts
def _made(item: Item, store: Store, device: str, batches: int | None = None) -> Any:
    """A training as a worker begins it, on the first ``batches`` alone where they are given."""
    made = _begun(registry.method(item.recipe.method), item, store, device)
    if batches is not None:
        few = replace(made.data, train=made.data.train.at(slice(batches * item.recipe.training.batch_size)))
        made.trainer = Trainer(
            model=item.recipe.model,
            training=item.recipe.training,
            data=few,
            terms=made.terms,
            seeds=item.seeds,
            guidance=made.trainer.guidance,
            device=device,
        )
    return made


def _stage(item: Item, store: Store, device: str) -> Any:
    return _begun(registry.resolve("stages", item.role), item, store, device)


def _begun(kind: Any, item: Item, store: Store, device: str) -> Any:
    """From the start, with a log of its own."""
    store.end(item.key)
    begun = item.model_copy(update={"arm": f"{MODEL}-{time.monotonic_ns()}"})
    store.begin(begun)
    return kind(worker_config(begun, store, device))


def _leave(made: Any) -> None:
    made.cleanup()
    shutil.rmtree(made.logdir, ignore_errors=True)
