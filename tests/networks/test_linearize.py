"""The adjoint is the transposed Jacobian: against autograd and double backpropagation, with kinks and ties."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.adjoints import NETS, all_penalties, assert_close, gradients, randomize, rewind
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.gradients import penalties
from tune_interpreg.networks import zoo
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.linearize import linearize, through_softmax

pytestmark = pytest.mark.thorough

CLASSES = 4

#: Hides the linearize method of the network inside.
Opaque = nn.Sequential

KINDS = ("random", "ties", "constant", "black", "black without biases")
CASES = [(name, kind) for name in NETS for kind in KINDS[: 2 if name == "cifar_cnn" else None]]


def network(name: str, dtype: torch.dtype = torch.float64) -> Chain:
    return randomize(getattr(zoo, name)(NETS[name], CLASSES), name).to(dtype)


def images(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Return two images. Constant images have ties in nearly every pooling window, black ones in all of them."""
    x = torch.rand(2, *shape, generator=seeding.generator(0, "images"), dtype=torch.float64)
    constant = torch.tensor([0.5, 1.0], dtype=x.dtype)[:, None, None, None].expand(x.shape)
    return {"random": x, "ties": (2 * x).round() / 2, "constant": constant, "black": torch.zeros_like(x)}[kind]


def without_biases(net: nn.Module) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.zeros_(layer.bias)
    return net


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_penalties_and_their_gradients_equal_double_backpropagation(name: str, kind: str) -> None:
    """In float64 and train mode: logits, each penalty under each option, and the gradients of all parameters."""
    net, x, y = network(name), images(kind.split()[0], NETS[name]), torch.tensor([0, 3])
    if "without" in kind:
        without_biases(net)
    target = torch.rand(x.shape, generator=seeding.generator(0, "target"), dtype=x.dtype)
    pairs = [linearize(rewind(model), x) for model in (net, Opaque(net))]
    assert_close([pairs[0][0]], [pairs[1][0]])
    for ours, theirs in zip(*(all_penalties(*pair, y, target) for pair in pairs), strict=True):
        assert_close([ours, *gradients(net, ours)], [theirs, *gradients(net, theirs)])


@pytest.mark.parametrize("output", penalties.OUTPUTS)
def test_a_jacobian_with_a_dropout_mask_per_row_equals_double_backpropagation(output: str) -> None:
    net, x = network("mnist_cnn"), images("ties", NETS["mnist_cnn"]).repeat_interleave(CLASSES, dim=0)
    pairs = []
    for model in (net, Opaque(net)):
        o, adjoint = penalties.select_output(*linearize(rewind(model), x), output)
        penalty = penalties.repeated_jacobian(adjoint, o)
        pairs.append([penalty, *gradients(net, penalty)])
    assert_close(*pairs)


def test_relu_before_and_after_pooling_are_equal() -> None:
    """Values and gradients, also at ties and zeros."""
    x = torch.randint(-2, 3, (8, 2, 6, 6), generator=seeding.generator(0, "x")).double().requires_grad_()
    before, after = F.max_pool2d(x.relu(), 2), F.max_pool2d(x, 2).relu()
    v = torch.rand(before.shape, generator=seeding.generator(0, "v"), dtype=x.dtype)
    assert_close([before, *torch.autograd.grad(before, x, v)], [after, *torch.autograd.grad(after, x, v)])


def test_relu_works_in_place_only_if_its_input_is_not_read_again() -> None:
    """A layer that is used twice does so only if both places allow it."""
    shared, after, first = nn.ReLU(), nn.ReLU(), nn.ReLU(inplace=True)
    leaky = nn.LeakyReLU(inplace=True)
    chain = [first, nn.Conv2d(1, 2, 1), after, nn.Conv2d(2, 2, 1), shared, leaky, shared, nn.Flatten(), nn.Linear(8, 3)]
    net = Chain(chain)
    assert [layer.inplace for layer in (first, after, shared, leaky)] == [False, True, False, False]
    x = torch.randn(4, 1, 2, 2, generator=seeding.generator(0, "x"), dtype=torch.float64)
    before, e = x.clone(), torch.eye(3, dtype=x.dtype)[:, None].expand(3, 4, 3)
    pairs = [linearize(model, x) for model in (net.double(), Opaque(net))]
    assert_close(*([z, adjoint(e)] for z, adjoint in pairs))
    assert torch.equal(x, before)


def test_gradients_of_a_confident_models_probabilities_are_exact() -> None:
    """p_c rounds to 1 in float32, but all ∂p_k/∂x agree with float64."""
    z = torch.tensor([[30.0, 0.0, -3.0, 2.0], [1.0, 0.0, 25.0, 4.0]])
    e = torch.eye(CLASSES)[:, None].expand(CLASSES, 2, CLASSES)
    single, double = (through_softmax(z.to(kind), lambda e: e)[1](e.to(kind)) for kind in (z.dtype, torch.float64))
    assert (single != 0).all()
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)


@pytest.mark.parametrize("wrap", [lambda net: net, Opaque])
def test_linearize_without_gradients(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Under no_grad, as in attacks, logits and gradients are the same and have no graph."""
    net, x = wrap(network("mnist_cnn")), images("random", NETS["mnist_cnn"])
    z, adjoint = linearize(rewind(net), x)
    with torch.no_grad():
        z2, adjoint2 = linearize(rewind(net), x)
        g2 = adjoint2(z2)
    assert [z2.requires_grad, g2.requires_grad] == [False, False]
    assert_close([z, adjoint(z.detach())], [z2, g2])
    assert_close([x], [images("random", NETS["mnist_cnn"])])


@pytest.mark.parametrize("name", NETS)
def test_linearize_under_autocast(name: str) -> None:
    """In bfloat16 it agrees with autograd in bfloat16."""
    net, x = network(name, torch.float32).eval(), images("random", NETS[name]).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        g, expected = (linearize(m, x)[1](torch.ones(2, CLASSES).bfloat16()) for m in (net, Opaque(net)))
    assert (g - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", NETS)
def test_nothing_reads_data_on_the_host(name: str) -> None:
    """Linearize and every penalty run on tensors without data, so a graph can capture them."""
    net = network(name).to("meta").eval()
    z, adjoint = net.linearize(torch.empty(2, *NETS[name], dtype=torch.float64, device="meta"))
    y = torch.empty(2, dtype=torch.long, device="meta")
    for loss in all_penalties(z, adjoint, y, torch.empty(2, *NETS[name], dtype=torch.float64, device="meta")):
        assert all(grad.is_meta for grad in gradients(net, loss))
