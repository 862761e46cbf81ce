"""How many trials a node can run, and whether a worker ended because its node did."""

import itertools

import pytest
from helpers import jobs
from ray.exceptions import ActorUnavailableError

from tune_interpreg.cluster import nodes
from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.study.config import Resources, StageResources
from tune_interpreg.study.items import Job
from tune_interpreg.study.recipe import Recipe

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "trials"),
    [
        (1, 0, {"CPU": 8}, 8),
        (2, 0, {"CPU": 7, "GPU": 1}, 3),
        (0.1, 0, {"CPU": 0.3}, 3),
        (1, 0.25, {"CPU": 8, "GPU": 1}, 4),
        (1, 0.25, {"CPU": 3, "GPU": 1}, 3),
        (1, 0.4, {"CPU": 16, "GPU": 2}, 4),  # 2 / 0.4 is 5, but a trial's part must lie on one GPU
        (1, 2, {"CPU": 16, "GPU": 5}, 2),
        (1, 1, {"CPU": 16}, 0),
        (1, 0, {"memory": 1e9}, 0),
        (32, 0, {"CPU": 16}, 0),
    ],
)
def test_a_node_runs_as_many_trials_as_its_scarcest_resource_allows(
    cpus: float, gpus: float, node: dict[str, float], trials: int
) -> None:
    assert nodes.count_jobs(node, Resources(cpus=cpus, gpus=gpus)) == trials


def test_a_node_is_lost_if_its_worker_cannot_be_reached() -> None:
    assert nodes.is_node_lost(ActorUnavailableError("no connection", None))
    assert not nodes.is_node_lost(ValueError("raised by the item"))
    assert not nodes.is_node_lost(None)


def job(stage: str) -> Job:
    """Return a job of a stage of ``resources``."""
    training = jobs.training_job(Recipe(method="standard"))
    if stage == "train":
        return training
    return training.model_copy(update={"trains": False, "stage": "maps" if stage == "maps" else training.stage})


def test_jobs_of_all_stages_share_the_nodes_by_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training takes one of two GPUs, a judgment a quarter of one."""
    monkeypatch.setattr(nodes, "living_nodes", lambda: [{"CPU": 16.0, "GPU": 2.0}])
    slots = nodes.Slots(Resources(gpus=1, judge=StageResources(gpus=0.25)), print)
    for trainings, judgments in itertools.product(range(3), range(9)):
        running = [job("train")] * trainings + [job("judge")] * judgments
        assert slots.has_room(running) == (trainings / 2 + judgments / 8 < 1)
    assert slots.has_room([job("maps")])
    assert not slots.has_room([job("maps")] * 2)


def test_a_stage_that_no_node_can_run_is_refused_by_name() -> None:
    with pytest.raises(ClusterError, match="a job that judges asks for 9 CPUs and 0 GPUs, but no node has them"):
        nodes.require_slots([{"CPU": 8.0}], Resources(judge=StageResources(cpus=9)))


def test_a_lack_of_nodes_is_reported_once_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, messages = [0.0], []
    monkeypatch.setattr(nodes, "living_nodes", lambda: [{"CPU": 1.0}])
    slots = nodes.Slots(Resources(cpus=2), messages.append, lambda: clock[0])
    for clock[0] in (1, 59, 61, 200):
        assert slots.has_room([])
        assert not slots.has_room([job("train")])
        assert len(messages) == (clock[0] > 60)
    assert messages[0].startswith("waiting for a node: a trial asks for 2 CPUs and 0 GPUs, but no node has them (nodes")
