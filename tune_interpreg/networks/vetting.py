"""What a network must be before it is trained: one logit a class, and no draws but from its own generators.

Shapes: B batch, C·H·W image, K classes.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from tune_interpreg.networks.layers import set_dropout_generator


def vet(network: nn.Module, shape: tuple[int, int, int], classes: int) -> None:
    """Run a copy of the network, in train mode, on two black images.

    Args:
        network: left as it is, like the global generator.
        shape: C, H, W of an image.
        classes: K.

    Raises:
        RuntimeError: what the network itself raises, as where the images do not fit its layers.
        ValueError: the result is not z_BK, or layers draw from the global generator; all of them are named.
    """
    network = deepcopy(network).train().cpu()
    set_dropout_generator(network, torch.Generator())
    drawing = _watch(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        z_BK = network(torch.zeros(2, *shape))
    if drawing:
        raise ValueError(
            "layers draw from the global random generator, so that a training could not be repeated: "
            f"{', '.join(drawing)}; take torch.nn.Dropout, torch.nn.Dropout2d, or no randomness"
        )
    if not isinstance(z_BK, Tensor) or z_BK.shape != (2, classes):
        found = tuple(z_BK.shape) if isinstance(z_BK, Tensor) else type(z_BK).__name__
        raise ValueError(f"a network returns one logit a class: (2, {classes}) for 2 images; this one returns {found}")


def _watch(network: nn.Module) -> list[str]:
    """A list that the coming forward fills with the innermost layers that draw from the global generator."""
    before: dict[nn.Module, Tensor] = {}
    drawing: list[str] = []

    def note(layer: nn.Module, name: str) -> None:
        if not torch.equal(torch.get_rng_state(), before[layer]):
            drawing.append(f"{name or 'network'} ({type(layer).__name__})")
            torch.set_rng_state(before[layer])  # the layers around this one have not drawn themselves

    for name, layer in network.named_modules():
        layer.register_forward_pre_hook(lambda layer, _: before.update({layer: torch.get_rng_state()}))
        layer.register_forward_hook(lambda layer, *_, name=name: note(layer, name))
    return drawing
