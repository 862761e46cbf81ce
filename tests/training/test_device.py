"""Settings of the device: float32 precision, memory of the GPU, memory of the process."""

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers.contract import Make, training
from helpers.engines import DEVICE, TRAINING, drawing, on_a_gpu, train, trainer
from torch import Tensor, nn

from tune_interpreg.training.device import use_exact_float32
from tune_interpreg.training.trainer import Batch


def test_a_training_sets_its_precision_and_restores_float32() -> None:
    precisions: set[tuple[str, str]] = set()
    cudnn: Any = torch.backends.cudnn

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        precisions.add((torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision))
        return drawing(model, batch)

    use_exact_float32()
    for matmul, expected in (("tf32", "tf32"), ("float32", "ieee")):
        train(trainer(1, terms=terms, training=TRAINING.model_copy(update={"matmul": matmul})), 1)
        assert precisions == {(expected, expected)}
        precisions.clear()
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert cudnn.deterministic
        assert not cudnn.benchmark


@on_a_gpu
def test_a_record_holds_the_gpu_memory_per_seed(make: Make) -> None:
    trainable = make("standard", device=DEVICE, seed=[0, 1], training=training(1))
    assert json.loads(trainable.step()["record"])["gpu_bytes_a_seed"] > 0


#: Prints the number of pages that the system clears when four blocks of 32 MiB are allocated for the fifth time.
PAGES = """
import resource, sys, torch
from tune_interpreg.training.device import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**23) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_pages(mode: str) -> int:
    command = [sys.executable, "-c", PAGES, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
@pytest.mark.slow
def test_freed_memory_is_reused() -> None:
    assert count_pages("keep") < 0.3 * count_pages("leave")
