"""Build the network that a study names: resolve, initialize and check it.

Shapes: B batch, C·H·W image, K classes.
"""

import math
import warnings
from copy import deepcopy

import torch
from torch import Tensor, nn

from tune_interpreg import registry
from tune_interpreg.networks.layers import find_problem, has_hooks, replace_dropout, set_dropout_generator
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
from tune_interpreg.study.config import Model

NORMALIZATIONS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm),
)


class SlowGradients(UserWarning):
    """Warn that a network's penalties need double backpropagation."""


#: Networks that this process has checked: a worker builds the same one for many trials.
_CHECKED: set[tuple[str, tuple[int, int, int], int]] = set()


def build(model: Model, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
    """Return the network that `model` names, initialized, in train mode, on the generator's device.

    A Sequential of supported layers becomes a PiecewiseLinear. Other networks without `linearize` are not changed and
    give one SlowGradients warning per process. Dropout draws from its own generator.

    Args:
        model: registered name of a builder (shape, classes, **options) -> network, and its options.
        shape, classes: (C, H, W) of an image, and K.
        generator: only source of the weights.

    Raises:
        TypeError: see `initialize`.
        RuntimeError: the images do not fit the network.
        ValueError: the result is not z_BK, or layers draw from the global generator.
    """
    builder = registry.resolve("models", model.name)
    with torch.device("meta"):  # allocates and draws nothing; `initialize` fills the weights
        network, problems = _to_piecewise_linear(replace_dropout(builder(shape, classes, **model.options)))
    initialize(network.to_empty(device=generator.device), generator)
    key = (model.model_dump_json(), shape, classes)
    if key not in _CHECKED:
        _check_network(network, shape, classes)
        if problems:
            reasons = "\n".join(problems)
            warnings.warn(
                f"model {model.name}: penalties on its gradients take slow double backpropagation, because\n"
                f"{reasons}\nBuild an nn.Sequential of supported layers, or define linearize(x) -> (y, e ↦ Jᵀe)",
                SlowGradients,
                stacklevel=2,
            )
        _CHECKED.add(key)
    return network.train()


def initialize(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw all weights and biases from U(−1/√fan_in, 1/√fan_in), PyTorch's default scheme; return the model.

    Raises:
        TypeError: a layer other than Conv2d, Linear and NORMALIZATIONS has parameters or buffers.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif isinstance(layer, NORMALIZATIONS):
            layer.reset_parameters()
        elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
            raise TypeError(f"initialize: {name or 'model'}: {type(layer).__name__} has no known scheme")
    return model


def _check_network(network: nn.Module, shape: tuple[int, int, int], classes: int) -> None:
    """Run a copy of the network, in train mode, on two black images, and check the result."""
    network = deepcopy(network).train().cpu()
    set_dropout_generator(network, torch.Generator())
    drawing = _record_draws(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        z_BK = network(torch.zeros(2, *shape))
    if drawing:
        raise ValueError(
            "layers draw from the global random generator, so that a training could not be repeated: "
            f"{', '.join(drawing)}; use torch.nn.Dropout, torch.nn.Dropout2d, or no randomness"
        )
    result = tuple(z_BK.shape) if isinstance(z_BK, Tensor) else type(z_BK).__name__
    if result != (2, classes):
        raise ValueError(
            f"a network returns one logit per class: (2, {classes}) for 2 images; this one returns {result}"
        )


def _record_draws(network: nn.Module) -> list[str]:
    """Return a list that the next forward fills with the innermost layers that draw from the global generator."""
    before: dict[nn.Module, Tensor] = {}
    drawing: list[str] = []

    def compare(layer: nn.Module, name: str) -> None:
        if not torch.equal(torch.get_rng_state(), before[layer]):
            drawing.append(f"{name or 'network'} ({type(layer).__name__})")
            torch.set_rng_state(before[layer])  # the enclosing layers did not draw themselves

    for name, layer in network.named_modules():
        layer.register_forward_pre_hook(lambda layer, _: before.update({layer: torch.get_rng_state()}))
        layer.register_forward_hook(lambda layer, *_, name=name: compare(layer, name))
    return drawing


def _to_piecewise_linear(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return the network as a PiecewiseLinear, or itself and the layers that are not supported."""
    if hasattr(network, "linearize"):
        return network, []
    chain = _flatten(network, "")
    reasons = {place: find_problem(layer) for place, layer in chain.items()}
    problems = [f"{place}: {reason}".removeprefix(": ") for place, reason in reasons.items() if reason]
    return (network, problems) if problems else (PiecewiseLinear(list(chain.values())), [])


def _flatten(network: nn.Module, place: str) -> dict[str, nn.Module]:
    """Return the layers of nested Sequentials, by name, in the order they are applied. Other modules stay whole."""
    if type(network).forward is not nn.Sequential.forward or has_hooks(network):
        return {place: network}
    chain: dict[str, nn.Module] = {}
    for name, layer in network.named_modules(remove_duplicate=False):  # named_children would drop a layer used twice
        if name and "." not in name:
            chain |= _flatten(layer, f"{place}.{name}".strip("."))
    return chain
