"""One study on Ray has the same records with 1, 2 and 3 workers, random delays, and kills.

Its searches maximize within a bound, with several seeds and a pruner, and match a loss. Every epoch waits for a random
time, from the operating system's random numbers.
"""

import os
import random
from pathlib import Path

import pytest
from helpers.kept import Kept
from helpers.kills import Round
from helpers.plugins import install_plugin

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

DELAYED = """
import random
import time
from trainables.jacobian import JacobianTrainable

class Delayed(JacobianTrainable):
    "Jacobian regularization with a pause before each epoch."
    def step(self):
        time.sleep(random.SystemRandom().uniform(0, 0.8))
        return super().step()
"""
STUDY = """
name: counts
data: {name: digits, train_limit: 224, validation: 60, test_limit: 60}
training: {epochs: 3, batch_size: 16, lr: 0.05}
attack: {eps: 0.5, steps: 2}
evaluation: {steps: 3, adversarial_every: 1, checks: null, gradient_norms: null}
resources: {cpus: CPUS}
seeds: [0, 1]
arms:
  standard: {method: standard}
  bounded:
    method: delayed
    search:
      space: {lambda_j: {log_uniform: [0.001, 1.0]}}
      maximize: val/adv_accuracy
      where: {val/accuracy: {within: 0.2, of: standard}}
      trials: 9
      parallel: 3
      pruner: median
  averaged:
    method: delayed
    search: {space: {lambda_j: {log_uniform: [0.001, 1.0]}}, maximize: val/accuracy, trials: 4, seeds: 2}
  match:
    method: delayed
    search: {space: {lambda_j: {log_uniform: [0.001, 1.0]}}, match_loss_of: bounded, trials: 6, parallel: 2}
"""
KILLS = [("worker", "epoch"), ("driver", "ending"), ("worker", "ending"), ("driver", "epoch"), ("driver", "ending")]


def test_workers_delays_and_kills_change_no_record(tmp_path: Path) -> None:
    site = install_plugin(
        tmp_path / "site", "delayed", DELAYED, "[tune_interpreg.methods]\ndelayed = delayed:Delayed\n"
    )
    rng, cores = random.Random(int(os.environ.get("SEED", "0"))), os.cpu_count() or 1
    reference = Round(tmp_path / "reference", 1, rng, STUDY, site)
    reference.finish([], "--cluster", "in-process")
    expected = Kept(reference.store)
    states = [record["state"] for record in expected.records.values()]
    assert states.count("pruned") > 0, "otherwise the comparison tests no pruner"
    for workers in (1, 2, 3):
        ran = Round(tmp_path / str(workers), int(100 * cores / workers) / 100, rng, STUDY, site)
        ran.patience = 120  # each kill must hit work under way
        ran.finish(list(KILLS) if workers == 3 else [])
        assert len(ran.kills) == (len(KILLS) if workers == 3 else 0)
        assert Kept(ran.store).difference(expected) == [], f"{workers} workers"
        assert Kept(ran.store).leftovers() == []
