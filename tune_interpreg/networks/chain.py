"""Networks with an exact adjoint: chains of layers and residual blocks, composed from the layers' rules.

Shapes: B batch, C·H·W image, K classes; `...` any leading dimensions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tune_interpreg.networks.activations import SMOOTH, ReLUAdjoint
from tune_interpreg.networks.layers import RULES, Rule, find_problem, find_rule, has_hooks
from tune_interpreg.networks.transposes import Adjoint, channels_last


class Residual(nn.Module):
    """A residual block: y = branch(x) + shortcut(x) (He et al., 2016). It has an exact adjoint if both parts have one.

    Args:
        branch, shortcut: modules with results of one shape. The default shortcut is the identity.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return branch(x) + shortcut(x)."""
        y: Tensor = self.branch(x) + self.shortcut(x)
        return y


#: The supported layers, for messages.
SUPPORTED = (
    f"{', '.join(layer.__name__ for layer in (nn.Sequential, *RULES) if layer.__module__.startswith('torch'))} of "
    "torch.nn; Residual, Dropout, Dropout2d of tune_interpreg.networks; modules with linearize(x) -> (y, e ↦ Jᵀe)"
)

#: Layers with results, also of their adjoints, that the next layer may overwrite: new tensors, not saved anywhere.
OVERWRITABLE = (
    *(nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, Residual),
)


class Chain(nn.Module):
    """A chain of layers with a Jacobian adjoint that is itself a forward computation.

    J = ∂f/∂x is a product of its layers' Jacobians at x, J = W_L ⋯ W_1. So Jᵀe = W_1ᵀ ⋯ W_Lᵀe applies the transposed
    layers in reverse order, with the masks, slopes and statistics that the forward saved.

    Args:
        layers: applied in order, from x_BCHW to the logits z_BK. Each is of a supported type, has a `linearize` method,
            or is a Sequential or Residual of such layers. Their `inplace` is set here: only a ReLU works in place, on a
            tensor that is not read again.

    Raises:
        TypeError: names all layers that are not supported.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        problems = [problem for i, layer in enumerate(layers) for problem in find_problems(layer, f"layers.{i}")]
        if problems:
            raise TypeError("\n".join(["Chain: unsupported layers", *problems, f"Supported: {SUPPORTED}"]))
        self.layers = nn.Sequential(*layers)
        _set_inplace(self.layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the logits z_BK = f(x)."""
        z_BK: Tensor = self.layers(channels_last(x_BCHW))
        return z_BK

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
        """Return z_BK = f(x) and the adjoint e ↦ Jᵀe; see `networks.linearize`.

        One ordinary backward differentiates the adjoint by e and the parameters.
        """
        return _linearize_sequential(self.layers, channels_last(x_BCHW))


def to_chain(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return the network as a Chain, or the network itself and why it has no exact adjoint, one text per cause.

    A network with a `linearize` method is returned as it is, without problems.

    Raises:
        TypeError: its `linearize` does not belong to its forward.
    """
    if hasattr(network, "linearize"):
        problem = find_problem(network)
        if problem:
            raise TypeError(problem)
        return network, []
    problems = find_problems(network, "")
    return (network, problems) if problems else (Chain(list(_flatten(network))), [])


def find_problems(layer: nn.Module, place: str) -> list[str]:
    """Return why the layer, or layers inside it, have no exact adjoint: one text per cause, each with its place."""
    if _composite_rule(layer) and not has_hooks(layer):
        # named_children would drop a layer that is used twice
        names = [name for name, _ in layer.named_modules(remove_duplicate=False) if name and "." not in name]
        parts = [(f"{place}.{name}".strip("."), layer.get_submodule(name)) for name in names]
        return [problem for place, part in parts for problem in find_problems(part, place)]
    problem = find_problem(layer)
    return [f"{place}: {problem}".removeprefix(": ")] if problem else []


def _linearize(layer: nn.Module, x: Tensor) -> tuple[Tensor, Adjoint]:
    rule = _composite_rule(layer) or find_rule(layer)
    return rule(layer, x)


def _composite_rule(layer: nn.Module) -> Rule | None:
    """Return the rule of a Sequential or a Residual, or of a subclass with the same forward; None for others."""
    rule = COMPOSITES.get(type(layer).forward)
    return None if rule is None or hasattr(layer, "linearize") else rule


def _linearize_sequential(chain: nn.Sequential, x: Tensor) -> tuple[Tensor, Adjoint]:
    adjoints = []
    for layer in chain:
        x, layer_adjoint = _linearize(layer, x)
        adjoints.append((layer_adjoint, type(layer) in OVERWRITABLE))

    def adjoint(e: Tensor) -> Tensor:
        overwritable = False  # the first e belongs to the caller
        for layer_adjoint, returns_new in reversed(adjoints):
            if overwritable and isinstance(layer_adjoint, ReLUAdjoint) and not torch.is_grad_enabled():
                e = layer_adjoint.overwrite(e)
            else:
                e = layer_adjoint(e)
            overwritable = returns_new
        return e

    return x, adjoint


def _linearize_residual(block: Residual, x: Tensor) -> tuple[Tensor, Adjoint]:
    y, branch = _linearize(block.branch, x)
    z, shortcut = _linearize(block.shortcut, x)
    return y + z, lambda e: branch(e) + shortcut(e)


#: The forward of a module of several parts → its rule. A subclass that changes the forward has another one.
COMPOSITES: dict[Any, Rule] = {
    nn.Sequential.forward: _linearize_sequential,
    Residual.forward: _linearize_residual,
}


def _set_inplace(chain: nn.Sequential) -> None:
    """Let each ReLU work in place if nothing else reads its input, and no other layer."""
    places = list(_places(chain))
    for _, layer in places:
        if isinstance(layer, (nn.ReLU, nn.LeakyReLU, *SMOOTH)):
            layer.inplace = isinstance(layer, nn.ReLU)
    for before, layer in places:  # a ReLU may be used twice, so one unsafe place decides
        if isinstance(layer, nn.ReLU) and type(before) not in OVERWRITABLE:
            layer.inplace = False


def _places(chain: nn.Module) -> Iterator[tuple[nn.Module | None, nn.Module]]:
    """Yield each layer with the layer before it, or with None at the start of a chain and of a block's parts."""
    before: nn.Module | None = None
    for layer in _flatten(chain):
        yield before, layer
        before = layer
        if isinstance(layer, Residual) and _composite_rule(layer):
            yield from _places(layer.branch)
            yield from _places(layer.shortcut)


def _flatten(layer: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of nested Sequentials in the order they are applied. Other modules stay whole."""
    if isinstance(layer, nn.Sequential) and _composite_rule(layer):
        for part in layer:
            yield from _flatten(part)
    else:
        yield layer
