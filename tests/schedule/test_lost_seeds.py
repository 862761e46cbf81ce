"""A seed that diverges beside others: what its record says, and what the study, its graph and its report make of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.closed_form import drain, study, worker
from helpers.contract import data
from helpers.ledgers import STUDY, accuracies, current, item, record, results
from torch import Tensor, nn

from analysis.page import provenance
from analysis.results import rows
from trainables import StandardTrainable
from tune_interpreg.display import lines as display
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Attack, Data, Evaluation, Training
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.training.trainer import Batch

LOST = r"the term ce was inf in epoch 2 (seed 1), step 1 of 2"


class Fragile(StandardTrainable):
    """Seed 1 has no number from the second epoch on."""

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        broken = self.trainer.epoch > 0 and model is self.trainer.replicas[1].model
        return {name: term / (not broken) for name, term in super().terms(model, batch).items()}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A repeat of seeds 0, 1 and 2 in a store, three epochs of two steps."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    recipe = Recipe(
        method="standard",
        data=Data(**data()),
        training=Training(epochs=3, batch_size=32, lr=0.05),
        evaluation=Evaluation(gradient_samples=20),
        evaluation_attack=Attack(eps=0.5, steps=2),
    )
    asked = Item(arm="arm", role="repeat", recipe=recipe, seeds=(0, 1, 2))
    return {"item": asked.model_dump(mode="json"), "store": str(tmp_path / "store"), "device": "cpu"}


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_others_finish_and_the_record_says_which_was_lost(interrupted: bool, config: dict[str, Any]) -> None:
    """Metrics, curves and models of the sound seeds alone; an interrupted training remembers who was lost."""
    trainable, store = Fragile(config), Store(config["store"])
    trainable.step()
    assert "record" not in trainable.step()
    if interrupted:
        trainable = Fragile(config)
        assert trainable.trainer.diverged == {1: LOST}
    found = json.loads(trainable.step()["record"])
    assert (found["state"], found["error"], found["seeds"], found["epochs"]) == ("done", LOST, [0, 1, 2], 3)
    assert found["metrics"].keys() == found["curves"].keys() == {"0", "2"}
    assert {store.path / name for name in found["files"]} == {store.model_file(found["key"], seed) for seed in (0, 2)}
    assert ledger.lost_seeds(found) == {1}


def losing(seed: int) -> Any:
    """Answers by closed form, but a repeat of several seeds loses one of them."""

    def answer(asked: Item) -> Record:
        made = worker(asked)
        if asked.role == "repeat" and len(asked.seeds) > 1:
            made["metrics"].pop(str(seed), None)
        return made

    return answer


def test_a_study_counts_a_lost_seed_as_lost(tmp_path: Path) -> None:
    """It is not tried again, nor checked, and the other seeds' models are used as ever."""
    of, store = study("standard", "adversarial", gpus=1, checks="{}"), Store(tmp_path)
    ran = drain(of, store, losing(1))
    assert sorted((one.arm, one.role, one.seeds) for one in ran) == [
        ("adversarial", "checks", (0,)),
        ("adversarial", "repeat", (0, 1)),
        ("standard", "checks", (0,)),
        ("standard", "repeat", (0, 1)),
    ]
    assert drain(of, store) == []
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.settled() == dispatcher.total() == 6
    assert all((one.done, one.lost) == ({0}, {1}) for one in dispatcher.state.repeats.values())
    assert graph.blocked_arms(of, dispatcher.state) == {}


def test_a_lost_teacher_seed_gives_no_maps(tmp_path: Path) -> None:
    """Of the teacher's two seeds the first is the one that teaches."""
    of, store = study("adversarial", "robust", gpus=1), Store(tmp_path)
    assert {one.arm for one in drain(of, store, losing(0))} == {"adversarial"}
    told = graph.blocked_arms(of, Dispatcher(of, store, "f").state)
    assert told == {"robust": "has no target maps: the teacher adversarial gave none"}


def test_a_report_tells_which_seed_is_missing_and_why() -> None:
    together = record(item("standard", (0, 1, 2)), {0: accuracies(0.9), 2: accuracies(0.8)}) | {"error": LOST}
    assert rows.values(rows.tabulate(current([together])), "standard", "test/accuracy") == {0: 0.9, 2: 0.8}
    found = {gap.seed: gap for gap in rows.find_missing(current([together])) if gap.arm == "standard"}
    assert found[1] == rows.MissingSeed("standard", 1, "diverged", LOST)
    assert found.keys() == set(STUDY.seeds) - {0, 2}
    assert provenance.provenance(results([together]))["arms"]["standard"]["trials"].keys() == {0, 2}


def test_the_line_of_a_finished_item_tells_of_lost_seeds_and_of_a_gpus_memory() -> None:
    asked = Item(arm="a", role="repeat", recipe=Recipe(method="standard"), seeds=(0, 1))
    whole = worker(asked) | {"seconds": 7.0}
    assert display.summary(asked, whole).endswith("(7.0 s)")
    lost = whole | {"metrics": {"0": whole["metrics"]["0"]}, "error": LOST, "gpu_bytes_a_seed": 300 * 2**20}
    assert display.summary(asked, lost).endswith(f"(7.0 s, 300 MiB of GPU memory a seed); {LOST}")


def test_only_a_finished_repeat_has_lost_some_of_its_seeds() -> None:
    whole = worker(Item(arm="a", role="repeat", recipe=Recipe(method="standard"), seeds=(0, 1)))
    assert ledger.lost_seeds(whole) == set()
    assert ledger.lost_seeds(whole | {"metrics": {"1": {}}}) == {0}
    assert ledger.lost_seeds(whole | {"state": "failed", "metrics": {}}) == set()
    assert ledger.lost_seeds(whole | {"role": "checks", "metrics": {}}) == set()
