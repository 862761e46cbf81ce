"""The shipped networks, and `build`: seeds, conversion for the exact adjoint, and the reason where there is none."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers.adjoints import NETS
from torch import Tensor, nn

from tune_interpreg import registry, seeding
from tune_interpreg.networks import layers, transposes, weights, zoo
from tune_interpreg.networks.build import EXACT, build, describe_gradients
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.study.config import Model

SHAPE, CLASSES = (2, 6, 6), 4

Build = Callable[[Callable[[], nn.Module]], nn.Module]


@pytest.fixture
def build_user(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Build:
    """Build a user's network for images of SHAPE; its registered name is the test's."""

    def build_one(make: Callable[[], nn.Module]) -> nn.Module:
        monkeypatch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: make())
        return build(Model(name=request.node.name), SHAPE, CLASSES, 0)

    return build_one


def linear() -> nn.Linear:
    return nn.Linear(math.prod(SHAPE), CLASSES)


@pytest.mark.parametrize("name", NETS)
def test_weights_are_those_of_pytorchs_constructors(name: str) -> None:
    """Drawn from the global generator, which has the seed's number and is restored. Other seeds differ."""
    state = seeding.read_global_state()
    nets = [build(Model(name=name), NETS[name], CLASSES, seed) for seed in (5, 5, 6)]
    assert seeding.read_global_state() == state
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.number(5, "init"))
        reference = getattr(zoo, name)(NETS[name], CLASSES)
    assert nets[0].training
    for first, again, other, expected in zip(*(net.parameters() for net in (*nets, reference)), strict=True):
        assert torch.equal(first, expected)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("name", "shape", "count"), [("mnist_cnn", (1, 28, 28), 3_274_634), ("cifar_cnn", (3, 32, 32), 1_147_978)]
)
def test_the_papers_networks_have_their_size(name: str, shape: tuple[int, int, int], count: int) -> None:
    """Parameters: Σ (inputs·k² + 1)·outputs over the layers, at the data sets' own sizes."""
    with torch.device("meta"):
        net = getattr(zoo, name)(shape, 10)
        assert net.eval()(torch.zeros(1, *shape)).shape == (1, 10)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("name", NETS)
def test_too_small_images_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="too small"):
        getattr(zoo, name)((1, 3, 3), CLASSES)


def test_the_fully_connected_part_of_cifar_cnn_is_linear_without_relu() -> None:
    """The option removes two ReLUs and does not change the weights."""
    models = [Model.model_validate({"name": "cifar_cnn", "fc_relu": fc_relu}) for fc_relu in (True, False)]
    nets = [build(model, NETS["cifar_cnn"], CLASSES, 0) for model in models]
    kinds = [[type(layer) for layer in net.layers] for net in nets]
    assert [each.count(nn.ReLU) for each in kinds] == [6, 4]
    assert nn.ReLU not in kinds[1][kinds[1].index(nn.Flatten) :]
    for pair in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(*pair)


def test_a_sequential_becomes_a_chain(build_user: Build) -> None:
    """Also nested, with PyTorch's dropout, with a layer used twice, or as a subclass. The function is the same."""

    class Named(nn.Sequential):
        pass

    def make() -> nn.Module:
        relu = nn.ReLU(inplace=True)
        return Named(nn.Sequential(nn.Conv2d(2, 2, 1), relu, nn.Dropout(0.2)), nn.Flatten(), linear(), relu)

    net = build_user(make)
    assert isinstance(net, Chain)
    assert describe_gradients(net) == EXACT
    kinds = [nn.Conv2d, nn.ReLU, layers.Dropout, nn.Flatten, nn.Linear, nn.ReLU]
    assert [type(layer) for layer in net.layers] == kinds
    plain, x = make().eval(), torch.rand(3, *SHAPE)
    plain.load_state_dict(dict(weights.named_tensors(net)))
    assert torch.equal(net.eval()(x), plain(transposes.channels_last(x)))


class Branched(nn.Module):
    """A network that is not a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Dropout(0.5), linear()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BK: Tensor = self.head(self.drop(x_BCHW + self.conv(x_BCHW).relu()).flatten(1))
        return z_BK


class Hooked(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), linear())
        self.register_forward_hook(lambda layer, inputs, z: 2 * z)


class Doubled(nn.Sequential):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        return 2 * super().forward(x_BCHW)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Branched, ["Branched"]),
        (Hooked, ["Hooked", "hooks"]),
        (lambda: Doubled(nn.Flatten(), linear()), ["Doubled"]),
        (lambda: nn.Sequential(nn.Flatten(), linear(), nn.Hardtanh(), nn.Hardtanh()), ["2: ", "Hardtanh", "1 more"]),
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 3, 1, 1, padding_mode="reflect"), nn.Flatten(), linear()), ["reflect"]),
    ],
    ids=["branched", "hooked", "doubled", "other layers", "reflecting"],
)
def test_other_networks_are_exact_and_say_why_they_are_slow(
    make: Callable[[], nn.Module], words: list[str], build_user: Build
) -> None:
    """The gradients are autograd's, under one dropout mask."""
    net = build_user(make)
    description = describe_gradients(net)
    assert description.startswith("double backpropagation, because ")
    assert all(word in description for word in words), description
    generator, x = torch.Generator(), torch.rand(3, *SHAPE, requires_grad=True)
    layers.set_dropout_generator(net, generator.manual_seed(1))
    _, adjoint = linearize(net, x)
    layers.set_dropout_generator(net, generator.manual_seed(1))
    e = torch.rand(3, CLASSES)
    torch.testing.assert_close(adjoint(e), *torch.autograd.grad(net(x), x, e))


def test_a_network_with_linearize_is_not_changed(build_user: Build) -> None:

    class Linearized(nn.Sequential):
        def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, layers.Adjoint]:
            return self(x_BCHW), lambda e: (e @ self[1].weight).unflatten(-1, SHAPE)

    assert type(build_user(lambda: Linearized(nn.Flatten(), linear()))) is Linearized
