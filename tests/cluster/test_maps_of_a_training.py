"""The maps that only one training reads: its worker makes them first, and says why it cannot."""

from pathlib import Path

import pytest
from helpers.jobs import training_job

from tune_interpreg.cluster.worker import open_maps
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import MapSettings
from tune_interpreg.study.items import Job, Maps
from tune_interpreg.study.recipe import Recipe, TargetMaps

SETTINGS = MapSettings(sigma=0.3)
TEACHER = training_job(Recipe(method="adversarial"), "adversarial")
ITEM = Maps(teacher=TEACHER.key, settings=SETTINGS)
MAPS = TEACHER.model_copy(update={"stage": "maps", "trains": False, "work": (ITEM,)})
RECIPE = Recipe(method="interpretation", maps=TargetMaps(key=ITEM.key, settings=SETTINGS))
JOB = training_job(RECIPE, "tuned", number=0, maps=MAPS)


def test_a_training_waits_for_its_maps(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = open_maps(JOB, store)
    assert left is not None
    assert (left.key, left.items, left.arm) == (ITEM.key, (ITEM,), "adversarial")
    store.write_record(ledger.make_record(MAPS, ITEM, "done"))
    assert open_maps(JOB, store) is None
    assert open_maps(JOB.model_copy(update={"maps": None}), Store(tmp_path / "other")) is None


def test_maps_that_diverged_end_the_training_with_the_reason(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record(ledger.make_record(MAPS, ITEM, "diverged", error="the map of image 3 is not finite"))
    with pytest.raises(RuntimeError, match="its target maps cannot be made: the map of image 3 is not finite"):
        open_maps(JOB, store)


def test_a_job_with_maps_is_read_back_from_json() -> None:
    assert Job.model_validate_json(JOB.model_dump_json()) == JOB
    assert JOB.key == training_job(RECIPE, "tuned", number=0).key
