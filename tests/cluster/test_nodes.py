"""How many trials a node can run, and whether a worker ended because its node did."""

import pytest
from ray.exceptions import ActorUnavailableError

from tune_interpreg.cluster import nodes
from tune_interpreg.study.config import Resources

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
    assert nodes.count_trials(node, Resources(cpus=cpus, gpus=gpus)) == trials


def test_a_node_is_lost_if_its_worker_cannot_be_reached() -> None:
    assert nodes.is_node_lost(ActorUnavailableError("no connection", None))
    assert not nodes.is_node_lost(ValueError("raised by the item"))
    assert not nodes.is_node_lost(None)


def test_a_lack_of_nodes_is_reported_once_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, messages = [0.0], []
    monkeypatch.setattr(nodes, "living_nodes", lambda: [{"CPU": 1.0}])
    slots = nodes.Slots(Resources(cpus=2), messages.append, lambda: clock[0])
    for clock[0] in (1, 59, 61, 200):
        assert slots.count() == 1
        assert len(messages) == (clock[0] > 60)
    assert messages[0].startswith("waiting for a node: a trial asks for 2 CPUs and 0 GPUs, but no node has them (nodes")
