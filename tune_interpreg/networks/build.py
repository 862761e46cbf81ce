"""Build the network that a study names: call its builder, check the result, convert it for exact adjoints.

Shapes: B batch, C·H·W image, K classes.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tune_interpreg import registry, seeding
from tune_interpreg.networks import vetting, weights
from tune_interpreg.networks.chain import find_problems, to_chain
from tune_interpreg.networks.layers import replace_dropout
from tune_interpreg.networks.vetting import NetworkError
from tune_interpreg.study.config import Model
from tune_interpreg.study.problems import describe_exception

#: Images for the check of a network.
IMAGES = 4

#: The way of a network to its gradients at the images that costs about as much as an ordinary backward.
EXACT = "exact adjoint"

#: Networks that this process has checked: a worker builds the same one for many trials.
_CHECKED: set[tuple[str, tuple[int, int, int], int]] = set()


def build(
    model: Model,
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    images_BCHW: Tensor | None = None,
) -> nn.Module:
    """Return the network that `model` names as its builder made it, in train mode, on `device`.

    The builder runs with all global generators seeded by (seed, "init"). Lazy layers are materialized, dropout draws
    from its own generator, and a network of supported layers becomes a Chain with the same tensors. Each network is
    checked once per process; see `vetting`.

    Args:
        model: registered name of a builder (shape, classes, **options) -> network, and its options.
        shape, classes: (C, H, W) of an image, and K.
        images_BCHW: images for the check, pixels in [0, 1]; uniform noise if None.

    Raises:
        NetworkError: the network cannot be built, trained or repeated. Its cause is the exception of a user's code.
    """
    builder = registry.resolve("models", model.name)
    make = partial(_make, partial(builder, shape, classes, **model.options), shape)
    key = (model.model_dump_json(), shape, classes)
    try:
        if key not in _CHECKED:
            if images_BCHW is None:
                images_BCHW = torch.rand(IMAGES, *shape, generator=seeding.generator(0, "vetting"))
            vetting.vet(partial(make, 0), images_BCHW[:IMAGES], classes)
            _CHECKED.add(key)
        return weights.move(make(seed), device).train()
    except NetworkError as error:
        raise NetworkError(f"{model.name} {error}") from error.__cause__
    except Exception as error:  # a builder and a forward are a user's code, which may raise anything
        reason = describe_exception(error, getattr(builder, "__module__", ""))
        raise NetworkError(
            f"{model.name} fails with images of shape {shape}: {reason}; correct it, or name another model"
        ) from error


def describe_gradients(network: nn.Module) -> str:
    """Return how penalties get a built network's gradients at the images: EXACT, or the slow way and the reason."""
    reasons = [] if hasattr(network, "linearize") else find_problems(network, "")
    if not reasons:
        return EXACT
    more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"double backpropagation, because {reasons[0]}{more}"


def _make(builder: Callable[[], nn.Module], shape: tuple[int, int, int], seed: int) -> nn.Module:
    """Return a new network on the CPU, not checked."""
    with seeding.seeded(seed, "init"):
        network = builder()
        vetting.refuse_kind(network)
        if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
            with torch.no_grad():
                network.eval()(torch.rand(2, *shape))
    network = replace_dropout(weights.move(network, "cpu"))
    chain, _ = to_chain(network)
    if chain is not network:
        weights.set_source(chain, network)
    return chain
