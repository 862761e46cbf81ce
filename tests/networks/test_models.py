"""The shipped networks, and `build`: networks are initialized from one seed, linearized and checked."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.adjoints import NETS
from torch import Tensor, nn

from tune_interpreg import registry, seeding
from tune_interpreg.networks import layers, transposes, zoo
from tune_interpreg.networks.build import SlowGradients, build, initialize
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
from tune_interpreg.study.config import Model

SHAPE, CLASSES = (2, 6, 6), 4

Build = Callable[[Callable[[], nn.Module]], nn.Module]


@pytest.fixture
def build_user(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Build:
    """Build a user's network for images of SHAPE; its registered name is the test's."""

    def build_one(make: Callable[[], nn.Module]) -> nn.Module:
        monkeypatch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: make())
        return build(Model(name=request.node.name), SHAPE, CLASSES, seeding.generator(0, "init"))

    return build_one


def linear() -> nn.Linear:
    return nn.Linear(math.prod(SHAPE), CLASSES)


@pytest.mark.parametrize("name", NETS)
def test_initialization_is_pytorchs_own(name: str) -> None:
    """The draws are those of PyTorch's constructors with the same seed, up to rounding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        reference = getattr(zoo, name)(NETS[name], CLASSES)
    net = initialize(getattr(zoo, name)(NETS[name], CLASSES), torch.Generator().manual_seed(7))
    torch.testing.assert_close(list(net.parameters()), list(reference.parameters()))


@pytest.mark.parametrize("name", NETS)
def test_build_depends_on_its_generator_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal seeds give equal bits, other seeds differ, and the global generator is not changed."""
    monkeypatch.setattr(registry, "resolve", lambda group, name: getattr(zoo, name))
    first = build(Model(name=name), NETS[name], CLASSES, seeding.generator(0, "weights"))
    torch.rand(1)
    state = torch.get_rng_state()
    second = build(Model(name=name), NETS[name], CLASSES, seeding.generator(0, "weights"))
    other = build(Model(name=name), NETS[name], CLASSES, seeding.generator(1, "weights"))
    assert torch.equal(state, torch.get_rng_state())
    assert first.training
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_initialize_refuses_layers_without_a_scheme() -> None:
    """Otherwise their weights would be uninitialized memory."""
    with pytest.raises(TypeError, match=r"1: Embedding"):
        initialize(nn.Sequential(nn.Linear(2, 2), nn.Embedding(2, 2)), seeding.generator(0, "weights"))


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
    nets = [build(model, NETS["cifar_cnn"], CLASSES, seeding.generator(0, "init")) for model in models]
    kinds = [[type(layer) for layer in net.layers] for net in nets]
    assert [each.count(nn.ReLU) for each in kinds] == [6, 4]
    assert nn.ReLU not in kinds[1][kinds[1].index(nn.Flatten) :]
    for weights in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(*weights)


def test_a_sequential_becomes_piecewise_linear(build_user: Build) -> None:
    """Also nested, with PyTorch's dropout, with a layer used twice, or as a subclass. The function is the same."""

    class Named(nn.Sequential):
        pass

    def make() -> nn.Module:
        relu = nn.ReLU(inplace=True)
        return Named(nn.Sequential(nn.Conv2d(2, 2, 1), relu, nn.Dropout(0.2)), nn.Flatten(), linear(), relu)

    net = build_user(make)
    assert isinstance(net, PiecewiseLinear)
    kinds = [nn.Conv2d, nn.ReLU, layers.Dropout, nn.Flatten, nn.Linear, nn.ReLU]
    assert [type(layer) for layer in net.layers] == kinds
    plain, x = make().eval(), torch.rand(3, *SHAPE)
    plain.load_state_dict(dict(zip(plain.state_dict(), net.state_dict().values(), strict=True)))
    assert torch.equal(net.eval()(x), plain(transposes.channels_last(x)))


class Residual(nn.Module):
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
        (Residual, ["Residual has neither a rule"]),
        (Hooked, ["Hooked must have no forward hooks"]),
        (lambda: Doubled(nn.Flatten(), linear()), ["Doubled has neither a rule"]),
        (lambda: nn.Sequential(nn.Flatten(), linear(), nn.Tanh(), nn.Softplus()), ["2: ", "Tanh", "3: ", "Softplus"]),
        (lambda: nn.Sequential(nn.Sequential(nn.BatchNorm2d(2)), nn.Flatten(), linear()), ["0.0: ", "BatchNorm2d"]),
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 3, 1, 1, padding_mode="reflect"), nn.Flatten(), linear()), ["reflect"]),
    ],
    ids=["residual", "hooked", "doubled", "smooth", "normalized", "reflecting"],
)
def test_other_networks_are_exact_and_warn_once(
    make: Callable[[], nn.Module], words: list[str], build_user: Build, request: pytest.FixtureRequest
) -> None:
    """The warning names model, place, type and remedy. The gradients are autograd's, under one dropout mask."""
    with pytest.warns(SlowGradients) as warned:
        net = build_user(make)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert all(word in str(warned[0].message) for word in [*words, request.node.name, "linearize(x)"])
    assert type(build_user(make)) is type(net)  # without another warning
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


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, training=self.training)


@pytest.mark.filterwarnings("ignore::tune_interpreg.networks.build.SlowGradients")
def test_layers_that_draw_from_the_global_generator_are_refused(build_user: Build) -> None:
    """The error names all of them, but not the layers around them. The global generator is not changed."""
    state = torch.get_rng_state()
    inner = [nn.AlphaDropout(), nn.RReLU(), nn.Dropout3d(), Functional(), nn.Dropout()]
    with pytest.raises(ValueError, match=r"global random generator") as error:
        build_user(lambda: nn.Sequential(nn.Sequential(*inner), nn.Flatten(), linear()))
    assert "0.0 (AlphaDropout), 0.1 (RReLU), 0.2 (Dropout3d), 0.3 (Functional); use torch.nn.Dropout" in str(error)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), r"\(2, 4\) for 2 images; this one returns \(2, 3\)"),
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 3)), r"returns \(2, 4, 4, 4\)"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(71, 4)), "shapes cannot be multiplied"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(make: Callable[[], nn.Module], words: str, build_user: Build) -> None:
    """Its layers do not take the images, or its output is not one logit per class."""
    with pytest.raises((ValueError, RuntimeError), match=words):
        build_user(make)


@pytest.mark.filterwarnings("ignore::tune_interpreg.networks.build.SlowGradients")
def test_checking_does_not_change_the_statistics_of_normalization(build_user: Build) -> None:
    net = build_user(lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), linear()))
    assert net[0].num_batches_tracked == 0
    assert net.training
