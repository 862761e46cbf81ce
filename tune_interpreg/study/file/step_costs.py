"""The cost of a training step of each shipped method, for the guide `options`."""

from typing import NamedTuple

#: How the costs were measured.
MEASURED = (
    "The cost of a training step is a multiple of a standard step's, on mnist_cnn with batches of 64, and with 5 steps"
    " of attack in adversarial, mart and trades. Floor: the fewest operations. Measured: processor time of one thread"
    " on an Intel Xeon with AMX, torch 2.15, the least of 9 interleaved repetitions, because other processes ran"
    " (`tests/benchmarks/bench_costs.py`)."
)


class StepCost(NamedTuple):
    """The cost of a step in standard steps: by operations, and as measured."""

    floor: float
    measured: float


STEP_COSTS = {
    "adversarial": StepCost(4.4, 4.6),
    "aligned": StepCost(11.2, 11.5),
    "cosine": StepCost(2.0, 2.1),
    "curvature": StepCost(5.0, 5.1),
    "distill": StepCost(1.3, 1.3),
    "fast_adversarial": StepCost(1.7, 1.7),
    "gaussian": StepCost(1.0, 1.0),
    "gradient_align": StepCost(4.0, 4.1),
    "gradient_match": StepCost(2.7, 2.7),
    "input_gradient": StepCost(2.0, 2.0),
    "interpretation": StepCost(2.0, 2.0),
    "jacobian": StepCost(11.2, 11.6),
    "jacobian_projections": StepCost(2.0, 2.2),
    "mart": StepCost(5.4, 5.6),
    "standard": StepCost(1.0, 1.0),
    "trades": StepCost(5.7, 5.7),
}
