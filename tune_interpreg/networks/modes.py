"""Modes in which a network runs: evaluation mode, and the precision of its products."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from tune_interpreg.study.config import Precision


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode in this block, then restore the mode of each of its modules."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def multiply_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which networks on this device multiply in this precision, which logits then have too."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)
