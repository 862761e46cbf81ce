"""Each layer's rule against autograd, alone and in random networks; dropout draws from its own generator alone."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg import registry, seeding
from tune_interpreg.networks import layers, transposes
from tune_interpreg.networks.build import build, initialize
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
from tune_interpreg.study.config import Model

CLASSES = 4


def rewound(net: nn.Module) -> nn.Module:
    layers.set_dropout_generator(net, seeding.generator(0, "dropout"))
    return net


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of a loss with respect to the parameters; what the loss shares with others stays in place."""
    return list(torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True, retain_graph=True))


def assert_close(one: Sequence[Tensor], two: Sequence[Tensor]) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(2, 3, 3),
    "conv thin": lambda: nn.Conv2d(2, 30, (2, 3), stride=(2, 3), padding=(1, 2), dilation=(2, 1)),
    "conv strided": lambda: nn.Conv2d(2, 3, (3, 2), stride=(3, 2), padding=1, bias=False),
    "conv dilated in groups": lambda: nn.Conv2d(2, 4, 3, dilation=(2, 1), groups=2, padding=(0, 1)),
    "conv same": lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(2, 1)),
    "conv valid": lambda: nn.Conv2d(2, 3, 2, padding="valid"),
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
@given(height=st.integers(5, 9), width=st.integers(5, 9), levels=st.integers(1, 3), lead=st.integers(0, 2))
def test_each_layer_equals_double_backpropagation(kind: str, height: int, width: int, levels: int, lead: int) -> None:
    """For any size, any ties (few grey levels) and any leading dimensions, value and parameter gradients."""
    net, make = one_layer(kind, height, width), seeding.generator(1, kind)
    x = torch.randint(-levels, levels + 1, (2, 2, height, width), generator=make).double()
    e = torch.randn(*[2, 3][:lead], 2, CLASSES, generator=make, dtype=torch.float64)
    g, g2 = (linearize(rewound(m), x)[1](e) for m in (net, nn.Sequential(net)))
    assert g.shape == (*e.shape[:-1], *x.shape[1:])
    assert_close([g, *gradients(net, g.pow(3).sum())], [g2, *gradients(net, g2.pow(3).sum())])


@settings(max_examples=20, deadline=None)
@given(
    blocks=st.tuples(st.integers(2, 3), st.integers(2, 3)),
    kernel=st.tuples(st.integers(5, 7), st.integers(5, 7)),
    channels=st.integers(1, 3),
    padding=st.integers(0, 4),
)
def test_a_convolution_block_by_block_equals_autograd(
    blocks: tuple[int, int], kernel: tuple[int, int], channels: int, padding: int
) -> None:
    """For few channels, sides of whole blocks and large kernels: value, and gradients by e and the weights."""
    size, layer = torch.Size([channels, *(4 * n for n in blocks)]), nn.Conv2d(channels, 3, kernel, padding=padding)
    initialize(layer.double(), seeding.generator(0, "init"))
    make = seeding.generator(1, "images")
    x = torch.randn(2, *size, generator=make, dtype=torch.float64, requires_grad=True)
    geometry = {"padding": (padding, padding), "dilation": (1, 1)}
    assert transposes.fastest(layer, size, geometry) is transposes._blocks
    y, adjoint = layers.rule(layer)(layer, x)
    e = torch.randn(y.shape, generator=make, dtype=torch.float64, requires_grad=True)
    one, two = adjoint(e), torch.autograd.grad(y, x, e, create_graph=True)[0]
    by = (e, layer.weight)
    assert_close([one, *torch.autograd.grad(one.pow(3).sum(), by)], [two, *torch.autograd.grad(two.pow(3).sum(), by)])


def test_adjoints_without_gradients_overwrite_nothing_of_the_callers() -> None:
    """A ReLU's works in place where nobody keeps what reaches it: the same numbers, e untouched, again and again."""
    chain = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.Identity(), nn.ReLU(), nn.Flatten()]
    net = PiecewiseLinear([*chain, nn.Linear(12, 6), nn.ReLU(), nn.ReLU()])
    initialize(net.double(), seeding.generator(0, "init"))
    x, e = (torch.randn(*size, generator=seeding.generator(1, "x")).double() for size in [(2, 2, 6, 6), (3, 2, 6)])
    kept, wanted = e.clone(), net.linearize(x)[1](e)
    with torch.no_grad():
        adjoint = net.linearize(x)[1]
        for _ in range(2):
            assert torch.equal(adjoint(e), wanted)
    assert torch.equal(e, kept)


@pytest.mark.parametrize("kind", LAYERS)
def test_adjoint_identity(kind: str) -> None:
    """⟨Jv, e⟩ = ⟨v, Jᵀe⟩, where Jv = (f(x + tv) − f(x))/t exactly, for a t too small to leave the linear piece."""
    net, make = one_layer(kind, 7, 8).eval(), seeding.generator(2, kind)
    x, v = (torch.randn(2, 2, 7, 8, generator=make, dtype=torch.float64) for _ in range(2))
    e = torch.randn(2, CLASSES, generator=make, dtype=torch.float64)
    z, adjoint = net.linearize(x)
    torch.testing.assert_close(((net(x + v * 2**-20) - z) * 2**20 * e).sum(), (v * adjoint(e)).sum(), rtol=0, atol=1e-7)


@st.composite
def random_layers(draw: st.DrawFn) -> nn.Module:
    """Any layer that has a rule, of PyTorch's own types; it may not fit the images that reach it."""
    kernel, stride, step = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(3))
    padding, flag = tuple(draw(st.integers(0, k // 2)) for k in kernel), draw(st.booleans())
    outputs, groups = draw(st.sampled_from([(2, 1), (4, 2), (20, 1)]))
    return draw(
        st.sampled_from(
            [
                nn.Conv2d(2, outputs, kernel, stride, padding, step, groups, bias=flag),
                nn.MaxPool2d(kernel, stride, padding, ceil_mode=flag),
                nn.MaxPool2d(kernel, stride, dilation=step),
                nn.AvgPool2d(kernel, stride, padding, ceil_mode=flag),
                nn.AdaptiveAvgPool2d(kernel),
                nn.ReLU(inplace=flag),
                nn.LeakyReLU(inplace=flag),
                nn.Dropout(inplace=flag),
                nn.Dropout2d(0.25),
                nn.Identity(),
            ]
        )
    )


@st.composite
def sequentials(draw: st.DrawFn) -> nn.Sequential:
    """Such layers in any order, and those that do not fit left out, nested, with a fully connected end."""
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
        fully = [nn.Flatten(), nn.Linear(x[0].numel(), 6), nn.ReLU(), nn.Linear(6, CLASSES)]
    return nn.Sequential(nn.Sequential(*chain), *fully) if draw(st.booleans()) else nn.Sequential(*chain, *fully)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # from within torch.func
@settings(max_examples=60, deadline=None)
@given(sequentials(), st.sampled_from([1, 2, 1000]), st.integers(0, 1000))
def test_any_sequential_of_layers_with_rules_is_linearized_exactly(network: nn.Module, levels: int, seed: int) -> None:
    """As `build` returns it, in train mode: ⟨e, Jv⟩ = ⟨Jᵀe, v⟩ with forward derivatives, and autograd's gradients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: network)
        net = build(Model(name="random"), (2, 9, 8), CLASSES, seeding.generator(seed, "init")).double()
    assert isinstance(net, PiecewiseLinear)
    make = seeding.generator(seed, "images")
    x = torch.randint(-levels, levels + 1, (2, 2, 9, 8), generator=make).double()
    v, e = torch.randn(x.shape, generator=make).double(), torch.randn(2, CLASSES, generator=make).double()
    _, jv = torch.func.jvp(rewound(net), (x,), (v,))
    g = rewound(net).linearize(x)[1](e)
    leaf = x.clone().requires_grad_()
    (g2,) = torch.autograd.grad(rewound(net)(leaf), leaf, e, create_graph=True)
    torch.testing.assert_close((e * jv).sum(), (g * v).sum(), rtol=1e-10, atol=1e-10)
    assert_close([g, *gradients(net, g.pow(3).sum())], [g2, *gradients(net, g2.pow(3).sum())])
    assert torch.equal(x, leaf)


class Halves(nn.Module):
    """The mean of an image's left and right halves: a layer with a linearize of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + x.flip(-1)) / 2

    def linearize(self, x: Tensor) -> tuple[Tensor, layers.Adjoint]:
        return self(x), self


def test_a_layer_may_bring_its_own_linearize() -> None:
    """A chain of it and layers with rules, chains among them, has an exact adjoint too."""
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
        (hooked(nn.ReLU()), ["layers.1: ReLU", "no hooks"]),
    ],
)
def test_a_layer_without_a_rule_is_refused(layer: nn.Module, words: list[str]) -> None:
    """The error names the layer, its place and what is supported."""
    with pytest.raises(TypeError) as error:
        PiecewiseLinear([nn.ReLU(), layer])
    assert all(word in str(error.value) for word in words)


def test_dropout_keeps_the_mean_and_its_generator_decides() -> None:
    """Entries are 0 or 1/(1 − p); the mean stays; the global generator does not matter; eval is the identity."""
    layer, x = layers.Dropout(0.25), torch.ones(40_000)
    rewound(layer)
    y = layer(x)
    torch.rand(1)
    assert torch.equal(y, rewound(layer)(x))
    assert set(y.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(y.mean().item() - 1) < 5 * (0.25 / 0.75 / 40_000) ** 0.5
    assert torch.equal(layer.eval()(x), x)


def test_dropout_of_channels_takes_whole_channels() -> None:
    """A channel is 0 or 1/(1 − p) throughout, each with its own draw for each sample; p is its share."""
    layer = layers.Dropout2d(0.25)
    y = rewound(layer)(torch.ones(200, 50, 2, 3))
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))
    assert set(y.flatten().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(y.mean().item() - 1) < 5 * (0.25 / 0.75 / 10_000) ** 0.5
    assert torch.equal(layer.eval()(y), y)


def test_pytorchs_dropout_is_replaced_wherever_it_stands() -> None:
    """Nested, shared, as an attribute: each with its probability; what else there is stays."""
    shared = nn.Dropout(0.3)
    model = nn.Sequential(shared, nn.ModuleDict({"a": nn.Sequential(nn.Dropout2d(0.2), shared)}), shared, nn.ReLU())
    found = [(type(layer), layer.p) for layer in layers.replace_dropout(model).modules() if hasattr(layer, "p")]
    assert found == [(layers.Dropout, 0.3), (layers.Dropout2d, 0.2), (layers.Dropout, 0.3), (layers.Dropout, 0.3)]
    assert isinstance(model[3], nn.ReLU)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_dropout_refuses_other_probabilities(p: float) -> None:
    """p = 1 would divide by zero."""
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        layers.Dropout(p)


def test_dropout_without_a_generator_is_an_error() -> None:
    """Train mode never falls back on the global generator; the error says what to call."""
    with pytest.raises(RuntimeError, match="set_dropout_generator"):
        layers.Dropout(0.5)(torch.ones(2))
