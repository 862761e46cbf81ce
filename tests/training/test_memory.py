"""A training's process keeps the memory that it frees."""

import ctypes
import subprocess
import sys

import pytest

#: How many pages the system clears for the fourth step with an exact Jacobian.
PAGES = """
import resource, sys
import torch
from tune_interpreg import seeding
from tune_interpreg.gradients import penalties
from tune_interpreg.networks import piecewise_linear as models
from tune_interpreg.training import memory

if sys.argv[1] == "keep":
    memory.keep_freed()
net = models.initialize(models.mnist_cnn((1, 28, 28), 10), seeding.generator(0, "init")).eval()
x_BCHW = torch.rand(64, 1, 28, 28, generator=seeding.generator(0, "images"))
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    z_BK, adjoint = models.linearize(net, x_BCHW)
    net.zero_grad()
    penalties.jacobian(adjoint, z_BK).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True, timeout=100)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
@pytest.mark.slow
def test_a_step_uses_the_memory_of_the_step_before() -> None:
    """Few blocks of a step are new, where otherwise the system clears most of them again."""
    assert pages("keep") < 0.3 * pages("leave")
