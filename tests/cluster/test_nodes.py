"""How many trials a node holds, and whose fault a worker's end was."""

import math

import pytest
from pydantic import ValidationError
from ray.exceptions import ActorUnavailableError

from tune_interpreg.cluster import nodes
from tune_interpreg.study.config import Resources


@pytest.mark.parametrize(
    ("cpus", "gpus", "held", "trials"),
    [
        (1, 0, {"CPU": 8}, 8),
        (2, 0, {"CPU": 7, "GPU": 1}, 3),
        (0.1, 0, {"CPU": 0.3}, 3),
        (1, 0.25, {"CPU": 8, "GPU": 1}, 4),
        (1, 0.1, {"CPU": 64, "GPU": 1}, 10),
        (1, 0.25, {"CPU": 3, "GPU": 1}, 3),
        (1, 2, {"CPU": 16, "GPU": 5}, 2),
        (1, 1, {"CPU": 16}, 0),
        (1, 0, {"memory": 1e9}, 0),
        (32, 0, {"CPU": 16}, 0),
    ],
)
def test_a_node_holds_as_many_trials_as_its_scarcer_part(
    cpus: float, gpus: float, held: dict[str, float], trials: int
) -> None:
    assert nodes.count_trials(held, Resources(cpus=cpus, gpus=gpus)) == trials


def test_a_part_of_a_gpu_lies_on_one_gpu() -> None:
    """Two GPUs hold two trials of 0.4 each, though 2 / 0.4 is 5."""
    assert nodes.count_trials({"CPU": 16, "GPU": 2}, Resources(gpus=0.4)) == 4
    assert math.floor(2 / 0.4) == 5


def test_more_than_one_gpu_is_asked_for_in_whole_ones() -> None:
    with pytest.raises(ValidationError, match=r"takes a part of one GPU or whole ones, got 1\.5"):
        Resources(gpus=1.5)


def test_an_exception_is_not_the_nodes_fault() -> None:
    assert not nodes.is_node_lost(ValueError("the code's own"))
    assert not nodes.is_node_lost(None)


def test_a_worker_out_of_reach_is_not_the_items_fault() -> None:
    assert nodes.is_node_lost(ActorUnavailableError("the line is dead", None))
