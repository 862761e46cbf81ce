"""Stores made by hand, mirrored, and what their mirrors hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from helpers.jobs import training_job
from helpers.studies import parse_study
from tune_interpreg.store import ledger, lock
from tune_interpreg.store.bucket import connect
from tune_interpreg.store.mirror import mirrored
from tune_interpreg.store.store import Store
from tune_interpreg.study.recipe import Recipe

STUDY = "arms: {arm: {method: standard}}"
RECIPE = Recipe(method="standard")


def make_store(path: Path, seeds: Sequence[int] = (0, 1), size: int = 1000) -> Store:
    """Return a store with a model and its record for each seed, a choice, a note of a job, and a log.

    size: bytes of a model.
    """
    store = Store(path)
    store.save_study(parse_study(STUDY))
    for seed in seeds:
        add_model(store, seed, bytes([seed]) * size)
    store.write_checked(store.choice_file("arm"), {"params": {"lambda": 0.5}})
    store.note_start(training_job(RECIPE, seed=99))
    store.write_text(store.trial_log(training_job(RECIPE)) / "events.1", "events")
    store.log_file.write_text("started\n")
    return store


def add_model(store: Store, seed: int, content: bytes) -> str:
    """Write a model and its record. Return its key."""
    job = training_job(RECIPE, seed=seed)
    (model,) = job.models
    store.write_bytes(store.model_file(model.key), content)
    files = store.checksums(store.model_file(model.key))
    store.write_record(ledger.make_record(job, model, "done", metrics={"train/loss": 0.5 + seed}, files=files))
    return model.key


def mirror(
    store: Store, url: str, during: Callable[[], object] | None = None, lines: list[str] | None = None
) -> list[str]:
    """Restore a store from its mirror and bring that up to date, as a run does. Return the lines that it prints.

    during: called while files are copied. lines: the list to return.
    """
    lines = [] if lines is None else lines
    with lock.hold(store), mirrored(store, connect(url), lines.append):
        if during:
            during()
    return lines


def contents(folder: Path) -> dict[str, bytes]:
    """Return path → content of the files of a store or of a mirror in a folder, without those of one machine."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    local = ("driver.", "mirror.jsonl", "lease/", "damaged/")
    return {path: content for path, content in files.items() if not path.startswith(local)}
