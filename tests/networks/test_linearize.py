"""The adjoint is the transposed Jacobian, by autograd and by double backpropagation, kinks and ties included."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.gradients import penalties
from tune_interpreg.networks import layers, zoo
from tune_interpreg.networks.build import initialize
from tune_interpreg.networks.linearize import linearize, through_softmax
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear

NETS = {"digits_cnn": (1, 8, 8), "mnist_cnn": (1, 12, 12), "cifar_cnn": (3, 16, 16)}
CLASSES = 4

#: Around a network, it hides the network's own linearize.
Opaque = nn.Sequential


def network(name: str, dtype: torch.dtype = torch.float64) -> PiecewiseLinear:
    net = getattr(zoo, name)(NETS[name], CLASSES)
    initialize(net, seeding.generator(0, name))
    layers.set_dropout_generator(net, seeding.generator(0, "dropout"))
    return net.to(dtype)


def images(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Constant images tie in nearly every window of a pool, black ones in all of them."""
    x = torch.rand(2, *shape, generator=seeding.generator(0, "images"), dtype=torch.float64)
    constant = torch.tensor([0.5, 1.0], dtype=x.dtype)[:, None, None, None].expand(x.shape)
    return {"random": x, "ties": (2 * x).round() / 2, "constant": constant, "black": torch.zeros_like(x)}[kind]


def rewound(net: nn.Module) -> nn.Module:
    layers.set_dropout_generator(net, seeding.generator(0, "dropout"))
    return net


def without_biases(net: nn.Module) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.zeros_(layer.bias)
    return net


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of a loss with respect to the parameters; what the loss shares with others stays in place."""
    return list(torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True, retain_graph=True))


def assert_close(one: Sequence[Tensor], two: Sequence[Tensor]) -> None:
    """To 1e-10 of the largest entry of all; where all of two is 0, so must be one."""
    scale = max(b.detach().abs().max().item() for b in two)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * min(1, scale))


def all_penalties(z: Tensor, logits_adjoint: layers.Adjoint, y: Tensor, t: Tensor) -> Iterator[Tensor]:
    """Every penalty under each of its options, at one forward."""
    d = penalties.cross_entropy_gradient(logits_adjoint, y, z)
    yield from (penalties.magnitude(d, norm=norm) for norm in penalties.PENALTY_NORMS)
    for output in penalties.OUTPUTS:
        o, adjoint = penalties.select_output(z, logits_adjoint, output)
        g, v = penalties.label_gradient(adjoint, y, o), penalties.unit_vectors(o, 2, seeding.generator(0, "v"))
        yield penalties.cosine(t - 0.5, g)
        for norm in penalties.PENALTY_NORMS:
            yield from (penalties.interpretation(t, g, norm=norm, sign=sign) for sign in penalties.SIGNS)
            yield penalties.jacobian(adjoint, o, norm=norm)
            yield penalties.projected_jacobian(adjoint, v, norm=norm)


@pytest.mark.parametrize("kind", ["random", "ties", "constant", "black", "black without biases"])
@pytest.mark.parametrize("name", NETS)
def test_penalties_and_their_gradients_equal_double_backpropagation(name: str, kind: str) -> None:
    """In float64, in train mode: logits, each penalty under each option, and the gradients of all parameters."""
    net, x, y = network(name), images(kind.split()[0], NETS[name]), torch.tensor([0, 3])
    if "without" in kind:
        without_biases(net)
    target = torch.rand(x.shape, generator=seeding.generator(0, "target"), dtype=x.dtype)
    pairs = [linearize(rewound(model), x) for model in (net, Opaque(net))]
    assert_close([pairs[0][0]], [pairs[1][0]])
    for one, two in zip(*(all_penalties(*pair, y, target) for pair in pairs), strict=True):
        assert_close([one, *gradients(net, one)], [two, *gradients(net, two)])


@pytest.mark.parametrize("output", penalties.OUTPUTS)
def test_a_mask_for_each_row_of_the_jacobian_equals_double_backpropagation(output: str) -> None:
    """Each image repeated for each class, each time under another dropout mask."""
    net, x = network("mnist_cnn"), images("ties", NETS["mnist_cnn"]).repeat_interleave(CLASSES, dim=0)
    pairs = []
    for model in (net, Opaque(net)):
        o, adjoint = penalties.select_output(*linearize(rewound(model), x), output)
        penalty = penalties.repeated_jacobian(adjoint, o)
        pairs.append([penalty, *gradients(net, penalty)])
    assert_close(*pairs)


@pytest.mark.parametrize("name", NETS)
def test_label_gradient_is_that_of_autograd(name: str) -> None:
    """The oracle here is autograd's gradient of the label's logit, without anything of this package."""
    net, x, y = network(name), images("ties", NETS[name]).requires_grad_(), torch.tensor([0, 3])
    (g,) = torch.autograd.grad(rewound(net)(x).gather(1, y[:, None]).sum(), x)
    z, adjoint = linearize(rewound(net), x.detach())
    assert_close([penalties.label_gradient(adjoint, y, z)], [g])


@pytest.mark.parametrize("kind", ["random", "black"])
def test_exact_zeros_at_relu_have_no_gradient(kind: str) -> None:
    """Without biases a black image makes every ReLU's input zero; the Jacobian there is 0, as in autograd."""
    net, x = without_biases(network("mnist_cnn")), images(kind, NETS["mnist_cnn"])
    z, adjoint = linearize(rewound(net), x)
    penalty = penalties.jacobian(adjoint, z)
    assert (penalty > 0) == (kind == "random")
    assert all(torch.isfinite(grad).all() for grad in gradients(net, penalty))


def test_relu_before_and_after_pooling_agree() -> None:
    """ReLU after max-pooling has the same values and the same gradients, ties and zeros included."""
    x = torch.randint(-2, 3, (8, 2, 6, 6), generator=seeding.generator(0, "x")).double().requires_grad_()
    before, after = F.max_pool2d(x.relu(), 2), F.max_pool2d(x, 2).relu()
    v = torch.rand(before.shape, generator=seeding.generator(0, "v"), dtype=x.dtype)
    assert_close([before, *torch.autograd.grad(before, x, v)], [after, *torch.autograd.grad(after, x, v)])


def test_relu_works_in_place_only_where_nothing_keeps_its_input() -> None:
    """One layer that stands in two places does so where both allow it; images and kept activations stay as they are."""
    shared, after, first = nn.ReLU(), nn.ReLU(), nn.ReLU(inplace=True)
    leaky = nn.LeakyReLU(inplace=True)
    chain = [first, nn.Conv2d(1, 2, 1), after, nn.Conv2d(2, 2, 1), shared, leaky, shared, nn.Flatten(), nn.Linear(8, 3)]
    net = PiecewiseLinear(chain)
    assert [layer.inplace for layer in (first, after, shared, leaky)] == [False, True, False, False]
    x = torch.randn(4, 1, 2, 2, generator=seeding.generator(0, "x"))
    before = x.clone()
    z, adjoint = net.linearize(x)
    rows = [adjoint(torch.eye(3)[k].expand(4, 3)) for k in range(3)]
    assert torch.equal(x, before)
    leaf = x.clone().requires_grad_()
    for k, row in enumerate(rows):
        torch.testing.assert_close(torch.autograd.grad(net(leaf)[:, k].sum(), leaf)[0], row)
    torch.testing.assert_close(z, net(x))


def test_jacobian_of_a_linear_map_is_its_matrix() -> None:
    """f(x) = Wx has J = W at every x; the adjoint of the K one-hots returns W's rows."""
    layer = nn.Linear(12, CLASSES)
    _, adjoint = PiecewiseLinear([nn.Flatten(), layer]).linearize(torch.rand(2, 3, 2, 2))
    rows = adjoint(torch.eye(CLASSES)[:, None].expand(CLASSES, 2, CLASSES))
    assert torch.equal(rows.flatten(2), layer.weight[:, None].expand(CLASSES, 2, 12))


def test_probabilities_of_a_linear_map_have_the_softmax_jacobian() -> None:
    """f(x) = Wx: ∂p_c/∂x = p_c·(W_c − Σ_k p_k W_k)."""
    layer = nn.Linear(12, CLASSES)
    x = torch.rand(2, 3, 2, 2, generator=seeding.generator(0, "x"))
    p, adjoint = through_softmax(*PiecewiseLinear([nn.Flatten(), layer]).linearize(x))
    rows = adjoint(torch.eye(CLASSES)[:, None].expand(CLASSES, 2, CLASSES)).flatten(2)
    torch.testing.assert_close(p, layer(x.flatten(1)).softmax(1))
    for c in range(CLASSES):
        torch.testing.assert_close(rows[c], p[:, c, None] * (layer.weight[c] - p @ layer.weight))


@pytest.mark.parametrize("wrap", [lambda net: net, Opaque])
def test_gradients_of_probabilities_are_those_of_autograd(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Of softmax(f(x)) as a whole; also the parameters' gradients, for p depends on the parameters too."""
    net, x = network("digits_cnn"), images("ties", NETS["digits_cnn"]).requires_grad_()
    e = torch.randn(3, 2, CLASSES, generator=seeding.generator(0, "e"), dtype=x.dtype)
    p = net(x).softmax(1)
    g = torch.stack([torch.autograd.grad(p, x, one, create_graph=True)[0] for one in e])
    own_p, adjoint = through_softmax(*linearize(wrap(net), x.detach()))
    own_g = adjoint(e)
    assert_close([own_p, own_g], [p, g])
    assert_close(gradients(net, (own_g**3).sum() + own_p[0, 0]), gradients(net, (g**3).sum() + p[0, 0]))


def test_gradients_of_a_confident_models_probabilities_keep_their_digits() -> None:
    """Where p_c rounds to 1 in float32, ∂p_c/∂x agrees with float64 nevertheless, and so does each other ∂p_k/∂x."""
    z = torch.tensor([[30.0, 0.0, -3.0, 2.0], [1.0, 0.0, 25.0, 4.0]])
    e = torch.eye(CLASSES)[:, None].expand(CLASSES, 2, CLASSES)
    one, two = (through_softmax(z.to(kind), lambda e: e)[1](e.to(kind)) for kind in (z.dtype, torch.float64))
    assert (one != 0).all()
    torch.testing.assert_close(one.double(), two, rtol=1e-5, atol=0)


@pytest.mark.parametrize("wrap", [lambda net: net, Opaque])
def test_linearize_without_gradients(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Under no_grad, as attacks use it, logits and gradients are the same and carry no graph."""
    net, x = wrap(network("mnist_cnn")), images("random", NETS["mnist_cnn"])
    z, adjoint = linearize(rewound(net), x)
    with torch.no_grad():
        z2, adjoint2 = linearize(rewound(net), x)
        g2 = adjoint2(z2)
    assert [z2.requires_grad, g2.requires_grad] == [False, False]
    assert_close([z, adjoint(z.detach())], [z2, g2])
    assert_close([x], [images("random", NETS["mnist_cnn"])])


@pytest.mark.parametrize("name", NETS)
def test_linearize_under_autocast(name: str) -> None:
    """In bfloat16, an option of attacks, it agrees with autograd in bfloat16, which rounds to the same masks."""
    net, x = network(name, torch.float32).eval(), images("random", NETS[name]).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        g, expected = (linearize(m, x)[1](torch.ones(2, CLASSES).bfloat16()) for m in (net, Opaque(net)))
    assert (g - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("wrap", [lambda net: net, Opaque])
def test_the_loss_gradient_is_the_adjoint_of_softmax_minus_label(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """∂CE/∂x = Jᵀ(p − e_c), also where e itself depends on the parameters."""
    net, x, y = network("digits_cnn"), images("random", NETS["digits_cnn"]).requires_grad_(), torch.tensor([0, 3])
    (expected,) = torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), x, create_graph=True)
    z, adjoint = linearize(wrap(net), x.detach())
    g = adjoint(z.softmax(1) - F.one_hot(y, CLASSES))
    pair = [(grad, gradients(net, grad.square().sum())) for grad in (g, expected)]
    assert_close([pair[0][0], *pair[0][1]], [pair[1][0], *pair[1][1]])


@pytest.mark.parametrize("name", NETS)
def test_nothing_depends_on_data(name: str) -> None:
    """A tensor without data goes through linearize and every penalty, so a graph can capture them."""
    net = network(name).to("meta").eval()
    z, adjoint = net.linearize(torch.empty(2, *NETS[name], dtype=torch.float64, device="meta"))
    y = torch.empty(2, dtype=torch.long, device="meta")
    for loss in all_penalties(z, adjoint, y, torch.empty(2, *NETS[name], dtype=torch.float64, device="meta")):
        assert all(grad.is_meta for grad in gradients(net, loss))
