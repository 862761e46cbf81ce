"""The adjoint is the transposed Jacobian, by autograd and by double backpropagation, kinks and ties included."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg import layers, models, penalties, registry, seeding

NETS = {"digits_cnn": (1, 8, 8), "mnist_cnn": (1, 12, 12), "cifar_cnn": (3, 16, 16)}
CLASSES = 4


class Opaque(nn.Module):
    """The same network without its own linearize."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.network(x_BCHW)


def network(name: str, dtype: torch.dtype = torch.float64) -> models.PiecewiseLinear:
    net = getattr(models, name)(NETS[name], CLASSES)
    models.initialize(net, seeding.generator(0, name))
    layers.set_dropout_generator(net, seeding.generator(0, "dropout"))
    return net.to(dtype)


def images(kind: str, shape: tuple[int, ...]) -> Tensor:
    x = torch.rand(2, *shape, generator=seeding.generator(0, "images"), dtype=torch.float64)
    return {"random": x, "ties": (2 * x).round() / 2, "zero": torch.zeros_like(x)}[kind]


def rewound(net: nn.Module) -> nn.Module:
    layers.set_dropout_generator(net, seeding.generator(0, "dropout"))
    return net


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of a loss with respect to the parameters; what the loss shares with others stays in place."""
    return list(torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True, retain_graph=True))


def assert_close(one: Sequence[Tensor], two: Sequence[Tensor]) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "abs": lambda z, adjoint, y, t, norm: penalties.interpretation(
        t, penalties.label_gradient(adjoint, y, z), norm=norm, sign="abs"
    ),
    "signed": lambda z, adjoint, y, t, norm: penalties.interpretation(
        t, penalties.label_gradient(adjoint, y, z), norm=norm, sign="signed"
    ),
    "jacobian": lambda z, adjoint, y, t, norm: penalties.jacobian(adjoint, z, norm=norm),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("digits_cnn", kind) for kind in ("random", "ties", "zero")), ("mnist_cnn", "ties"), ("cifar_cnn", "ties")],
)
def test_penalties_and_their_gradients_equal_double_backpropagation(name: str, kind: str) -> None:
    """In float64, in train mode: logits, each penalty under each norm, and the gradients of all parameters."""
    net, x, y = network(name), images(kind, NETS[name]), torch.tensor([0, 3])
    target = torch.rand(x.shape, generator=seeding.generator(0, "target"), dtype=x.dtype)
    pairs = [models.linearize(rewound(model), x) for model in (net, Opaque(net))]
    assert_close([pairs[0][0]], [pairs[1][0]])
    for norm in penalties.PENALTY_NORMS:
        for loss in LOSSES.values():
            one, two = (loss(*pair, y, target, norm) for pair in pairs)
            assert_close([one, *gradients(net, one)], [two, *gradients(net, two)])


@pytest.mark.parametrize("name", NETS)
def test_label_gradient_is_that_of_autograd(name: str) -> None:
    """The oracle here is autograd's gradient of the label's logit, without anything of this package."""
    net, x, y = network(name), images("ties", NETS[name]).requires_grad_(), torch.tensor([0, 3])
    (g,) = torch.autograd.grad(rewound(net)(x).gather(1, y[:, None]).sum(), x)
    z, adjoint = models.linearize(rewound(net), x.detach())
    assert_close([penalties.label_gradient(adjoint, y, z)], [g])


@pytest.mark.parametrize("kind", ["random", "zero"])
def test_exact_zeros_at_relu_have_no_gradient(kind: str) -> None:
    """Without biases a zero image makes every ReLU's input zero; the Jacobian there is 0, as in autograd."""
    net, x = network("mnist_cnn"), images(kind, NETS["mnist_cnn"])
    for layer in net.layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.zeros_(layer.bias)
    z, adjoint = models.linearize(rewound(net), x)
    penalty = penalties.jacobian(adjoint, z)
    assert (penalty > 0) == (kind == "random")
    assert all(torch.isfinite(grad).all() for grad in gradients(net, penalty))


def test_relu_before_and_after_pooling_agree() -> None:
    """ReLU after max-pooling has the same values and the same gradients, ties and zeros included."""
    x = torch.randint(-2, 3, (8, 2, 6, 6), generator=seeding.generator(0, "x")).double().requires_grad_()
    before, after = F.max_pool2d(x.relu(), 2), F.max_pool2d(x, 2).relu()
    v = torch.rand(before.shape, generator=seeding.generator(0, "v"), dtype=x.dtype)
    assert_close([before, *torch.autograd.grad(before, x, v)], [after, *torch.autograd.grad(after, x, v)])


def test_jacobian_of_a_linear_map_is_its_matrix() -> None:
    """f(x) = Wx has J = W at every x; the adjoint of the K one-hots returns W's rows."""
    layer = nn.Linear(12, CLASSES)
    _, adjoint = models.PiecewiseLinear([nn.Flatten(), layer]).linearize(torch.rand(2, 3, 2, 2))
    rows = adjoint(torch.eye(CLASSES)[:, None].expand(CLASSES, 2, CLASSES))
    assert torch.equal(rows.flatten(2), layer.weight[:, None].expand(CLASSES, 2, 12))


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
    "relu": nn.ReLU,
    "dropout": lambda: layers.Dropout(0.3),
}


def one_layer(kind: str, height: int, width: int) -> models.PiecewiseLinear:
    layer = LAYERS[kind]()
    with torch.no_grad():
        size = nn.Flatten()(layer.eval()(torch.zeros(1, 2, height, width))).shape[1]
    net = models.PiecewiseLinear([layer, nn.ReLU(), nn.Flatten(), nn.Linear(size, CLASSES)])
    return models.initialize(net.double(), seeding.generator(0, kind)).train()


@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=5, deadline=None)
@given(height=st.integers(5, 9), width=st.integers(5, 9), levels=st.integers(1, 3), lead=st.integers(0, 2))
def test_each_layer_equals_double_backpropagation(kind: str, height: int, width: int, levels: int, lead: int) -> None:
    """For any size, any ties (few grey levels) and any leading dimensions, value and parameter gradients."""
    net, make = one_layer(kind, height, width), seeding.generator(1, kind)
    x = torch.randint(-levels, levels + 1, (2, 2, height, width), generator=make).double()
    e = torch.randn(*[2, 3][:lead], 2, CLASSES, generator=make, dtype=torch.float64)
    g, g2 = (models.linearize(rewound(m), x)[1](e) for m in (net, Opaque(net)))
    assert g.shape == (*e.shape[:-1], *x.shape[1:])
    assert_close([g, *gradients(net, g.pow(3).sum())], [g2, *gradients(net, g2.pow(3).sum())])


@pytest.mark.parametrize("kind", LAYERS)
def test_adjoint_identity(kind: str) -> None:
    """⟨Jv, e⟩ = ⟨v, Jᵀe⟩, where Jv = (f(x + tv) − f(x))/t exactly, for a t too small to leave the linear piece."""
    net, make = one_layer(kind, 7, 8).eval(), seeding.generator(2, kind)
    x, v = (torch.randn(2, 2, 7, 8, generator=make, dtype=torch.float64) for _ in range(2))
    e = torch.randn(2, CLASSES, generator=make, dtype=torch.float64)
    z, adjoint = net.linearize(x)
    torch.testing.assert_close(((net(x + v * 2**-20) - z) * 2**20 * e).sum(), (v * adjoint(e)).sum(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("wrap", [lambda net: net, Opaque])
def test_linearize_without_gradients(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Under no_grad, as attacks use it, logits and gradients are the same and carry no graph."""
    net, x = wrap(network("mnist_cnn")), images("random", NETS["mnist_cnn"])
    z, adjoint = models.linearize(rewound(net), x)
    with torch.no_grad():
        z2, adjoint2 = models.linearize(rewound(net), x)
        g2 = adjoint2(z2)
    assert [z2.requires_grad, g2.requires_grad] == [False, False]
    assert_close([z, adjoint(z.detach())], [z2, g2])
    assert_close([x], [images("random", NETS["mnist_cnn"])])


@pytest.mark.parametrize("name", NETS)
def test_linearize_under_autocast(name: str) -> None:
    """In bfloat16, an option of attacks, it agrees with autograd in bfloat16, which rounds to the same masks."""
    net, x = network(name, torch.float32).eval(), images("random", NETS[name]).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        g, expected = (models.linearize(m, x)[1](torch.ones(2, CLASSES).bfloat16()) for m in (net, Opaque(net)))
    assert (g - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("wrap", [lambda net: net, Opaque])
def test_the_loss_gradient_is_the_adjoint_of_softmax_minus_label(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """∂CE/∂x = Jᵀ(p − e_c), also where e itself depends on the parameters."""
    net, x, y = network("digits_cnn"), images("random", NETS["digits_cnn"]).requires_grad_(), torch.tensor([0, 3])
    (expected,) = torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), x, create_graph=True)
    z, adjoint = models.linearize(wrap(net), x.detach())
    g = adjoint(z.softmax(1) - F.one_hot(y, CLASSES))
    pair = [(grad, gradients(net, grad.square().sum())) for grad in (g, expected)]
    assert_close([pair[0][0], *pair[0][1]], [pair[1][0], *pair[1][1]])


@pytest.mark.parametrize("name", NETS)
def test_nothing_depends_on_data(name: str) -> None:
    """A tensor without data goes through linearize and every penalty, so a graph can capture them."""
    net = network(name).to("meta").eval()
    z, adjoint = net.linearize(torch.empty(2, *NETS[name], dtype=torch.float64, device="meta"))
    y = torch.empty(2, dtype=torch.long, device="meta")
    g = penalties.label_gradient(adjoint, y, z)
    for norm in penalties.PENALTY_NORMS:
        loss = penalties.interpretation(g, g, norm=norm) + penalties.jacobian(adjoint, z, norm=norm)
        assert all(grad.is_meta for grad in gradients(net, loss))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Sigmoid(), ["layers.1: ", "Sigmoid", "torch.Conv2d", "tune_interpreg.Dropout"]),
        (nn.Dropout(), ["layers.1: torch.nn.modules.dropout.Dropout", "tune_interpreg.Dropout"]),
        (nn.Conv2d(1, 1, 3, padding_mode="reflect"), ["layers.1: Conv2d", "reflect"]),
        (nn.Conv2d(1, 1, 2, padding="same"), ["layers.1: Conv2d", "(2, 2)"]),
        (nn.Flatten(2), ["layers.1: Flatten", "2 to -1"]),
    ],
)
def test_a_layer_without_a_rule_is_refused(layer: nn.Module, words: list[str]) -> None:
    """The error names the layer, its place and what is supported."""
    with pytest.raises(TypeError) as error:
        models.PiecewiseLinear([nn.ReLU(), layer])
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("name", NETS)
def test_initialization_is_pytorchs_own(name: str) -> None:
    """The draws are those of PyTorch's constructors from an equally seeded generator, up to rounding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        reference = getattr(models, name)(NETS[name], CLASSES)
    net = models.initialize(getattr(models, name)(NETS[name], CLASSES), torch.Generator().manual_seed(7))
    for one, two in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", NETS)
def test_build_depends_on_its_generator_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal seeds give equal bits whatever the global generator; it is left as it was; other seeds differ."""
    monkeypatch.setattr(registry, "resolve", lambda group, name: getattr(models, name))
    one = models.build(name, NETS[name], CLASSES, seeding.generator(0, "weights"))
    torch.rand(1)
    state = torch.get_rng_state()
    two = models.build(name, NETS[name], CLASSES, seeding.generator(0, "weights"))
    other = models.build(name, NETS[name], CLASSES, seeding.generator(1, "weights"))
    assert torch.equal(state, torch.get_rng_state())
    assert one.training
    for a, b, c in zip(one.parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_initialize_refuses_what_it_does_not_know() -> None:
    """A layer with weights that has no scheme is an error that names it, never uninitialized memory."""
    with pytest.raises(TypeError, match=r"1: Embedding"):
        models.initialize(nn.Sequential(nn.Linear(2, 2), nn.Embedding(2, 2)), seeding.generator(0, "weights"))


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


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_dropout_refuses_other_probabilities(p: float) -> None:
    """p = 1 would divide by zero."""
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        layers.Dropout(p)


def test_dropout_without_a_generator_is_an_error() -> None:
    """Train mode never falls back on the global generator; the error says what to call."""
    with pytest.raises(RuntimeError, match="set_dropout_generator"):
        layers.Dropout(0.5)(torch.ones(2))


@pytest.mark.parametrize(
    ("name", "shape", "count"), [("mnist_cnn", (1, 28, 28), 3_274_634), ("cifar_cnn", (3, 32, 32), 1_147_978)]
)
def test_the_papers_nets_have_their_size(name: str, shape: tuple[int, int, int], count: int) -> None:
    """Parameters: Σ (inputs·k² + 1)·outputs over the layers, at the data sets' own sizes."""
    with torch.device("meta"):
        net = getattr(models, name)(shape, 10)
        assert net.eval()(torch.zeros(1, *shape)).shape == (1, 10)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("name", NETS)
def test_too_small_images_are_refused(name: str) -> None:
    """An image that the pools shrink to nothing is an error when the net is built."""
    with pytest.raises(ValueError, match="too small"):
        getattr(models, name)((1, 3, 3), CLASSES)
