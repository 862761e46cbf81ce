"""Each layer's rule against autograd, alone and in random networks; dropout from its own generator."""

from collections.abc import Callable

import pytest
import torch
from helpers.adjoints import assert_close, gradients, rewind
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg import registry, seeding
from tune_interpreg.networks import layers
from tune_interpreg.networks.build import build, initialize
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
from tune_interpreg.study.config import Model

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
    "identity": nn.Identity,
    "dropout": lambda: layers.Dropout(0.3),
    "dropout of channels": lambda: layers.Dropout2d(0.5),
}


def one_layer(kind: str, height: int, width: int) -> PiecewiseLinear:
    layer = LAYERS[kind]()
    with torch.no_grad():
        size = nn.Flatten()(layer.eval()(torch.zeros(1, 2, height, width))).shape[1]
    net = PiecewiseLinear([layer, nn.Flatten(), nn.Linear(size, 6), nn.ReLU(), nn.Linear(6, CLASSES)])
    return initialize(net.double(), seeding.generator(0, kind)).train()


@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=5, deadline=None)
@example(height=8, width=8, levels=2, lead=1)  # whole blocks
@given(height=st.integers(5, 9), width=st.integers(5, 9), levels=st.integers(1, 3), lead=st.integers(0, 2))
def test_each_layer_equals_double_backpropagation(kind: str, height: int, width: int, levels: int, lead: int) -> None:
    """Value and parameter gradients, for any size, ties (few grey levels) and leading dimensions."""
    net, make = one_layer(kind, height, width), seeding.generator(1, kind)
    x = torch.randint(-levels, levels + 1, (2, 2, height, width), generator=make).double()
    e = torch.randn(*[2, 3][:lead], 2, CLASSES, generator=make, dtype=torch.float64)
    g, g2 = (linearize(rewind(m), x)[1](e) for m in (net, nn.Sequential(net)))
    assert g.shape == (*e.shape[:-1], *x.shape[1:])
    assert_close([g, *gradients(net, g.pow(3).sum())], [g2, *gradients(net, g2.pow(3).sum())])


def test_an_adjoint_without_gradients_does_not_change_its_input() -> None:
    """Although a ReLU's adjoint works in place. Repeated calls give the same numbers."""
    chain = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.Identity(), nn.ReLU(), nn.Flatten()]
    net = PiecewiseLinear([*chain, nn.Linear(12, 6), nn.ReLU(), nn.ReLU()])
    initialize(net.double(), seeding.generator(0, "init"))
    x, e = (torch.randn(*size, generator=seeding.generator(1, "x")).double() for size in [(2, 2, 6, 6), (3, 2, 6)])
    before, expected = e.clone(), net.linearize(x)[1](e)
    with torch.no_grad():
        adjoint = net.linearize(x)[1]
        for _ in range(2):
            assert torch.equal(adjoint(e), expected)
    assert torch.equal(e, before)


@st.composite
def random_layers(draw: st.DrawFn) -> nn.Module:
    """Draw any supported layer of PyTorch. It may not fit its images."""
    kernel, stride, dilation = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(3))
    padding, flag = tuple(draw(st.integers(0, k // 2)) for k in kernel), draw(st.booleans())
    outputs, groups = draw(st.sampled_from([(2, 1), (4, 2), (20, 1)]))
    kinds = [
        lambda: nn.Conv2d(2, outputs, kernel, stride, padding, dilation, groups, bias=flag),
        lambda: nn.MaxPool2d(kernel, stride, padding, ceil_mode=flag),
        lambda: nn.AvgPool2d(kernel, stride, padding, ceil_mode=flag),
        lambda: nn.ReLU(inplace=flag),
        lambda: nn.Dropout(inplace=flag),
        *(make for name, make in LAYERS.items() if "dropout" not in name),
    ]
    return draw(st.sampled_from(kinds))()


@st.composite
def sequentials(draw: st.DrawFn) -> nn.Sequential:
    """Draw such layers in any order, nested or not, without those that do not fit, and a fully connected end."""
    with torch.device("meta"):
        x, chain = torch.empty(1, 2, 9, 8), []
        for layer in draw(st.lists(random_layers(), max_size=5)):
            if isinstance(layer, nn.Conv2d) and x.shape[1] != 2:
                layer = nn.Conv2d(x.shape[1], 2, 1)
            try:
                x = layer.eval()(x)
            except RuntimeError:
                continue
            chain.append(layer)
        end = [nn.Flatten(), nn.Linear(x[0].numel(), 6), nn.ReLU(), nn.Linear(6, CLASSES)]
    return nn.Sequential(nn.Sequential(*chain), *end) if draw(st.booleans()) else nn.Sequential(*chain, *end)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # from within torch.func
@settings(max_examples=60, deadline=None)
@given(sequentials(), st.sampled_from([1, 2, 1000]), st.integers(0, 1000))
def test_any_sequential_of_supported_layers_has_an_exact_adjoint(network: nn.Module, levels: int, seed: int) -> None:
    """In train mode: ⟨e, Jv⟩ = ⟨Jᵀe, v⟩ with forward derivatives, and autograd's gradients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: network)
        net = build(Model(name="random"), (2, 9, 8), CLASSES, seeding.generator(seed, "init")).double()
    assert isinstance(net, PiecewiseLinear)
    make = seeding.generator(seed, "images")
    x = torch.randint(-levels, levels + 1, (2, 2, 9, 8), generator=make).double()
    v, e = torch.randn(x.shape, generator=make).double(), torch.randn(2, CLASSES, generator=make).double()
    _, jv = torch.func.jvp(rewind(net), (x,), (v,))
    g = rewind(net).linearize(x)[1](e)
    leaf = x.clone().requires_grad_()
    (g2,) = torch.autograd.grad(rewind(net)(leaf), leaf, e, create_graph=True)
    torch.testing.assert_close((e * jv).sum(), (g * v).sum(), rtol=1e-10, atol=1e-10)
    assert_close([g, *gradients(net, g.pow(3).sum())], [g2, *gradients(net, g2.pow(3).sum())])
    assert torch.equal(x, leaf)


class Halves(nn.Module):
    """The mean of an image and its mirror image: a layer with a linearize method."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + x.flip(-1)) / 2

    def linearize(self, x: Tensor) -> tuple[Tensor, layers.Adjoint]:
        return self(x), self


def test_a_layer_may_define_linearize() -> None:
    """A chain of it, supported layers and further chains has an exact adjoint."""
    tail = PiecewiseLinear([nn.ReLU(), nn.Flatten(), nn.Linear(12, CLASSES)])
    net = PiecewiseLinear([Halves(), nn.Conv2d(2, 2, 1), tail]).double()
    x, e = torch.rand(3, 2, 2, 3, dtype=torch.float64), torch.rand(5, 3, CLASSES, dtype=torch.float64)
    assert_close([net.linearize(x)[1](e)], [linearize(nn.Sequential(net), x)[1](e)])


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda layer, inputs, y: 2 * y)
    return layer


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Sigmoid(), ["layers.1: ", "Sigmoid", "torch.Conv2d", "tune_interpreg.Dropout"]),
        (nn.Dropout(), ["layers.1: torch.nn.modules.dropout.Dropout", "tune_interpreg.Dropout"]),
        (nn.Conv2d(1, 1, 3, padding_mode="reflect"), ["layers.1: Conv2d", "reflect"]),
        (nn.Conv2d(1, 1, 2, padding="same"), ["layers.1: Conv2d", "(2, 2)"]),
        (nn.Flatten(2), ["layers.1: Flatten", "2 to -1"]),
        (hooked(nn.ReLU()), ["layers.1: ReLU", "hooks"]),
    ],
)
def test_an_unsupported_layer_is_refused(layer: nn.Module, words: list[str]) -> None:
    """The error names the layer, its place and the supported layers."""
    with pytest.raises(TypeError) as error:
        PiecewiseLinear([nn.ReLU(), layer])
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
    """Nested, shared, in a dictionary, each with its probability."""
    shared = nn.Dropout(0.3)
    model = nn.Sequential(shared, nn.ModuleDict({"a": nn.Sequential(nn.Dropout2d(0.2), shared)}), shared, nn.ReLU())
    dropouts = [(type(layer), layer.p) for layer in layers.replace_dropout(model).modules() if hasattr(layer, "p")]
    assert dropouts == [(layers.Dropout, 0.3), (layers.Dropout2d, 0.2), (layers.Dropout, 0.3), (layers.Dropout, 0.3)]
    assert isinstance(model[3], nn.ReLU)


def test_dropout_needs_a_probability_below_one_and_a_generator() -> None:
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            layers.Dropout(p)
    with pytest.raises(RuntimeError, match="set_dropout_generator"):
        layers.Dropout(0.5)(torch.ones(2))
