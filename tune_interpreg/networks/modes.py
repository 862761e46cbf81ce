"""Modes in which a network runs: evaluation mode, constant statistics, dropout's draws, precision of products."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from tune_interpreg.networks.layers import Dropout
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


@contextmanager
def constant_statistics(model: nn.Module) -> Iterator[None]:
    """Let forwards in this block leave the model's running statistics as they are, in train mode as well.

    A training step changes them exactly once, by the forward of its cross-entropy. Attacks, saliency maps and all other
    forwards run in such a block: its forwards change copies of the buffers, of any module in train mode. Capture-safe.
    """
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        if module.training
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    for module, name, buffer in buffers:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)


@contextmanager
def dropout_drawn_from(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Let dropout in this block draw its masks from another generator, so that later forwards draw what they would."""
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    usual = [layer.generator for layer in layers]
    for layer in layers:
        layer.generator = generator
    try:
        yield
    finally:
        for layer, former in zip(layers, usual, strict=True):
            layer.generator = former


def multiply_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which networks on this device multiply in this precision, which logits then have too."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)
