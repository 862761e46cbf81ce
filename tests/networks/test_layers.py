"""Each layer's rule against autograd, and the layers without one; dropout from its own generator."""

from collections.abc import Callable

import pytest
import torch
from helpers.adjoints import assert_close, gradients, randomize, rewind
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.networks import activations, layers
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.linearize import linearize

CLASSES = 4


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(2, 3, 3),
    "conv thin": lambda: nn.Conv2d(2, 30, (2, 3), stride=(2, 3), padding=(1, 2), dilation=(2, 1)),
    "conv strided": lambda: nn.Conv2d(2, 3, (3, 2), stride=(3, 2), padding=1, bias=False),
    "conv dilated in groups": lambda: nn.Conv2d(2, 4, 3, dilation=(2, 1), groups=2, padding=(0, 1)),
    "conv same": lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(2, 1)),
    "conv valid": lambda: nn.Conv2d(2, 3, 2, padding="valid"),
    "conv in blocks": lambda: nn.Conv2d(2, 3, 5, padding=2),
    "conv in blocks with other margins": lambda: nn.Conv2d(2, 3, (5, 6), padding=(4, 1)),
    "max": lambda: nn.MaxPool2d(2),
    "max overlapping": lambda: nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    "max dilated": lambda: nn.MaxPool2d(2, stride=1, dilation=(1, 2)),
    "max with gaps": lambda: nn.MaxPool2d((1, 2), stride=(3, 2)),
    "average": lambda: nn.AvgPool2d(2),
    "average overlapping": lambda: nn.AvgPool2d((3, 2), stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    "average divided": lambda: nn.AvgPool2d(3, stride=1, divisor_override=2),
    "average to a size": lambda: nn.AdaptiveAvgPool2d((2, 3)),
    "average of all": lambda: nn.AdaptiveAvgPool2d(1),
    "relu": nn.ReLU,
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "leaky relu with a negative slope": lambda: nn.LeakyReLU(-0.5),
    **{kind.__name__: kind for kind in activations.SMOOTH},
    "prelu per channel": lambda: nn.PReLU(2, -0.3),
    "gelu by tanh": lambda: nn.GELU(approximate="tanh"),
    "softplus with a threshold": lambda: nn.Softplus(beta=3, threshold=2),
    "elu in place": lambda: nn.ELU(0.7, inplace=True),
    "batch norm": lambda: nn.BatchNorm2d(2),
    "batch norm without scale": lambda: nn.BatchNorm2d(2, affine=False, eps=0.1),
    "batch norm without running statistics": lambda: nn.BatchNorm2d(2, track_running_stats=False),
    "group norm": lambda: nn.GroupNorm(1, 2),
    "group norm of each channel": lambda: nn.GroupNorm(2, 2, affine=False),
    "identity": nn.Identity,
    "dropout": lambda: layers.Dropout(0.3),
    "dropout of channels": lambda: layers.Dropout2d(0.5),
}


def one_layer(kind: str, height: int, width: int) -> Chain:
    layer = LAYERS[kind]()
    with torch.no_grad():
        size = nn.Flatten()(layer.eval()(torch.zeros(1, 2, height, width))).shape[1]
    net = Chain([layer, nn.Flatten(), nn.Linear(size, 6), nn.ReLU(), nn.Linear(6, CLASSES)])
    return randomize(net.double(), kind)


@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=5, deadline=None)
@example(height=8, width=8, levels=2, lead=1, train=True)  # whole blocks
@given(
    height=st.integers(5, 9),
    width=st.integers(5, 9),
    levels=st.integers(1, 3),
    lead=st.integers(0, 2),
    train=st.booleans(),
)
def test_each_layer_equals_double_backpropagation(
    kind: str, height: int, width: int, levels: int, lead: int, train: bool
) -> None:
    """Value and parameter gradients, for any size, ties (few grey levels) and leading dimensions, in both modes."""
    net, make = one_layer(kind, height, width).train(train), seeding.generator(1, kind)
    x = torch.randint(-levels, levels + 1, (2, 2, height, width), generator=make).double()
    x += 0.1 * ("prelu" in kind.lower())  # PyTorch's second derivative of PReLU has another slope at 0 than its first
    e = torch.randn(*[2, 3][:lead], 2, CLASSES, generator=make, dtype=torch.float64)
    g, g2 = (linearize(rewind(m), x)[1](e) for m in (net, nn.Sequential(net)))
    assert g.shape == (*e.shape[:-1], *x.shape[1:])
    assert_close([g, *gradients(net, g.pow(3).sum())], [g2, *gradients(net, g2.pow(3).sum())])


def test_an_adjoint_without_gradients_does_not_change_its_input() -> None:
    """Although a ReLU's adjoint works in place. Repeated calls give the same numbers."""
    chain = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.Identity(), nn.ReLU(), nn.Flatten()]
    net = randomize(Chain([*chain, nn.Linear(12, 6), nn.ReLU(), nn.ReLU()]).double(), "weights")
    x, e = (torch.randn(*size, generator=seeding.generator(1, "x")).double() for size in [(2, 2, 6, 6), (3, 2, 6)])
    before, expected = e.clone(), net.linearize(x)[1](e)
    with torch.no_grad():
        adjoint = net.linearize(x)[1]
        for _ in range(2):
            assert torch.equal(adjoint(e), expected)
    assert torch.equal(e, before)


class Halves(nn.Module):
    """The mean of an image and its mirror image: a layer with a linearize method."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + x.flip(-1)) / 2

    def linearize(self, x: Tensor) -> tuple[Tensor, layers.Adjoint]:
        return self(x), self


def test_a_layer_may_define_linearize() -> None:
    """A chain of it, supported layers and further chains has an exact adjoint."""
    tail = Chain([nn.ReLU(), nn.Flatten(), nn.Linear(12, CLASSES)])
    net = Chain([Halves(), nn.Conv2d(2, 2, 1), tail]).double()
    x, e = torch.rand(3, 2, 2, 3, dtype=torch.float64), torch.rand(5, 3, CLASSES, dtype=torch.float64)
    assert_close([net.linearize(x)[1](e)], [linearize(nn.Sequential(net), x)[1](e)])


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda layer, inputs, y: 2 * y)
    return layer


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Softmax(1), ["layers.1: ", "Softmax", "Sequential, Conv2d,", "of torch.nn"]),
        (nn.Dropout(), ["layers.1: torch.nn.modules.dropout.Dropout", "Dropout, Dropout2d of tune_interpreg"]),
        (nn.Conv2d(1, 1, 3, padding_mode="reflect"), ["layers.1: Conv2d", "reflect"]),
        (nn.Conv2d(1, 1, 2, padding="same"), ["layers.1: Conv2d", "(2, 2)"]),
        (nn.Flatten(2), ["layers.1: Flatten", "2 to -1"]),
        (hooked(nn.ReLU()), ["layers.1: ReLU", "hooks"]),
    ],
)
def test_an_unsupported_layer_is_refused(layer: nn.Module, words: list[str]) -> None:
    """The error names the layer, its place and the supported layers."""
    with pytest.raises(TypeError) as error:
        Chain([nn.ReLU(), layer])
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("kind", [layers.Dropout, layers.Dropout2d])
def test_dropout_preserves_the_mean_and_depends_on_its_generator(kind: type[layers.Dropout]) -> None:
    """Entries, or whole channels, are 0 or 1/(1 − p) with probability p and 1 − p. Eval mode is the identity."""
    layer, x = kind(0.25), torch.ones(200, 50, 2, 3)
    y = rewind(layer)(x)
    torch.rand(1)  # the global generator has no effect
    assert torch.equal(y, rewind(layer)(x))
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y)) == (kind is layers.Dropout2d)
    assert set(y.flatten().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(y.mean().item() - 1) < 5 * (0.25 / 0.75 / 10_000) ** 0.5
    assert torch.equal(layer.eval()(x), x)


def test_pytorchs_dropout_is_replaced_everywhere() -> None:
    """Nested, in a dictionary, each with its probability; a shared one stays shared."""
    shared = nn.Dropout(0.3)
    model = nn.Sequential(shared, nn.ModuleDict({"a": nn.Sequential(nn.Dropout2d(0.2), shared)}), shared, nn.ReLU())
    dropouts = [(type(layer), layer.p) for layer in layers.replace_dropout(model).modules() if hasattr(layer, "p")]
    assert dropouts == [(layers.Dropout, 0.3), (layers.Dropout2d, 0.2)]
    assert model[0] is model[2] is model[1]["a"][1]
    assert isinstance(model[3], nn.ReLU)


def test_dropout_needs_a_probability_below_one_and_a_generator() -> None:
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            layers.Dropout(p)
    with pytest.raises(RuntimeError, match="set_dropout_generator"):
        layers.Dropout(0.5)(torch.ones(2))
