"""Chains and residual blocks: exact adjoints of any composition, conversion of a user's network, work in place.

Shapes: B batch, C·H·W image, K classes.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from helpers.adjoints import all_penalties, assert_close, gradients, randomize, rewind
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.gradients import penalties
from tune_interpreg.networks import activations, layers
from tune_interpreg.networks.chain import Chain, Residual, find_problems, to_chain
from tune_interpreg.networks.linearize import linearize

pytestmark = pytest.mark.thorough

SHAPE, CLASSES = (2, 6, 5), 3

Draw = st.DrawFn
ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, *activations.SMOOTH]


def draw_norm(draw: Draw, channels: int) -> nn.Module:
    affine, tracks = draw(st.booleans()), draw(st.booleans())
    norms = [
        nn.BatchNorm2d(channels, affine=affine, track_running_stats=tracks),
        nn.GroupNorm(draw(st.sampled_from([1, channels])), channels, affine=affine),
    ]
    return draw(st.sampled_from(norms))


def draw_layer(draw: Draw, x: Tensor, depth: int) -> nn.Module:
    """Draw a layer for images of x's size. It may not fit them."""
    channels = x.shape[1]
    kernel, stride, dilation = (draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3))
    padding, flag = tuple(draw(st.integers(0, k // 2)) for k in kernel), draw(st.booleans())
    kind = draw(st.sampled_from(["convolution", "pool", "norm", "activation", "activation", "dropout", "residual"]))
    if kind == "convolution":
        outputs, groups = draw(st.sampled_from([(2, 1), (2 * channels, channels), (20, 1)]))
        return nn.Conv2d(channels, outputs, kernel, stride, padding, dilation, groups, bias=flag)
    if kind == "pool":
        pools = [nn.MaxPool2d(kernel, stride, padding, ceil_mode=flag), nn.AvgPool2d(kernel, stride, padding)]
        return draw(st.sampled_from([*pools, nn.AdaptiveAvgPool2d((2, 3)), nn.Identity()]))
    if kind == "norm" and x.shape[2:].numel() > 1:  # a set of one entry has the constant result β
        return draw(st.just(nn.LayerNorm(x.shape[2:]))) if flag and depth else draw_norm(draw, channels)
    if kind == "activation":
        return draw(st.sampled_from(ACTIVATIONS))()
    if kind in ("norm", "dropout") or depth == 0:
        return draw(st.sampled_from([nn.Dropout(inplace=flag), nn.Dropout2d(0.2)]))
    branch, y = draw_chain(draw, x, depth - 1)
    if y.shape == x.shape:
        return Residual(branch)
    projection = nn.Sequential(nn.AdaptiveAvgPool2d(y.shape[2:]), nn.Conv2d(channels, y.shape[1], 1))
    return Residual(branch, projection) if flag else Residual(projection, branch)


def draw_chain(draw: Draw, x: Tensor, depth: int) -> tuple[nn.Sequential, Tensor]:
    """Draw layers in any order, without those that do not fit x. Return them and a result without data."""
    chain = []
    for _ in range(draw(st.integers(0, 4))):
        layer = draw_layer(draw, x, depth)
        try:
            y = layer.eval()(x)
        except RuntimeError:
            continue
        if y.numel() > 0:  # PyTorch 2.11 does not refuse a convolution with an empty result
            x = y
            chain.append(layer)
    return nn.Sequential(*chain), x


@st.composite
def sequentials(draw: Draw) -> nn.Sequential:
    """Draw a network: such layers, residual blocks, nested or not, and a fully connected end."""
    with torch.device("meta"):
        chain, x = draw_chain(draw, torch.empty(2, *SHAPE), depth=2)
        ends = [[], [nn.BatchNorm1d(6)], [nn.LayerNorm(6)]]
        end = [
            nn.Flatten(),
            nn.Linear(x[0].numel(), 6),
            *draw(st.sampled_from(ends)),
            draw(st.sampled_from(ACTIVATIONS))(),
        ]
        network = nn.Sequential(chain, *end) if draw(st.booleans()) else nn.Sequential(*chain, *end)
        network.append(nn.Linear(6, CLASSES))
    return network.to_empty(device="cpu").double()


@settings(max_examples=60, deadline=None)
@given(sequentials(), st.sampled_from([1, 2, 1000]), st.booleans(), st.integers(0, 1000))
def test_any_network_of_supported_layers_has_an_exact_adjoint(
    network: nn.Module, levels: int, train: bool, seed: int
) -> None:
    """Logits, every row of J, a sum of all penalties and its gradients, in float64, equal double backpropagation."""
    chain, problems = to_chain(layers.replace_dropout(network))
    assert isinstance(chain, Chain), problems
    randomize(chain.train(train), str(seed))
    make = seeding.generator(seed, "images")
    x = torch.randint(-levels, levels + 1, (4, *SHAPE), generator=make).double()
    if any(isinstance(layer, nn.PReLU) for layer in chain.modules()):
        x += 0.1234567  # PyTorch's second derivative of PReLU has another slope at 0 than its first
    before, y, target = x.clone(), torch.tensor([0, 2, 1, 1]), torch.rand(x.shape, generator=make, dtype=x.dtype)
    e_KBK = torch.eye(CLASSES, dtype=x.dtype)[:, None].expand(CLASSES, 4, CLASSES)
    pairs = []
    for model in (chain, nn.Sequential(chain)):
        z, adjoint = linearize(rewind(model), x)
        rows = adjoint(e_KBK)
        terms = torch.stack(list(all_penalties(z, adjoint, y, target)))
        total = terms @ torch.linspace(0.5, 1.5, len(terms), dtype=x.dtype)
        pairs.append([z, rows, total, *gradients(chain, total)])
    # Rounding decides the sign and the direction of gradients that are 0 by symmetry, as in a constant network.
    size = pairs[1][1].abs()
    assume(bool(((size == 0) | (size > 1e-6)).all() and size.max() > 0))
    # A normalization of almost equal values divides by almost 0, which amplifies rounding.
    assume(max(float(tensor.detach().abs().max()) for tensor in pairs[1]) < 1e3)
    assert_close(*pairs)
    assert torch.equal(x, before)


def block() -> Residual:
    """Return a block. Its branch begins with a ReLU that may work in place."""
    return Residual(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True)))


def test_a_block_adds_its_branch_to_its_shortcut() -> None:
    """With the identity as default, and any module as the shortcut."""
    x, branch, shortcut = torch.randn(3, 2, 4, 4), nn.Conv2d(2, 2, 1), nn.MaxPool2d(1)
    torch.testing.assert_close(Residual(branch)(x), branch(x) + x)
    torch.testing.assert_close(Residual(branch, nn.Sequential(shortcut, nn.Tanh()))(x), branch(x) + x.tanh())
    torch.testing.assert_close(Residual(branch, branch)(x), 2 * branch(x))


def test_work_in_place_in_a_block_does_not_reach_its_shortcut() -> None:
    """The first ReLU of a branch shares its input, the others do not. A ReLU after a block may overwrite its sum."""
    after = nn.ReLU()
    net = Chain([nn.Conv2d(2, 2, 1), block(), after, nn.Flatten(), nn.Linear(32, CLASSES)])
    branch = net.layers[1].branch
    assert [branch[0].inplace, branch[2].inplace, after.inplace] == [False, True, True]
    randomize(net.double(), "weights")
    x = torch.randn(2, 2, 4, 4, generator=seeding.generator(0, "x"), dtype=torch.float64)
    e = torch.eye(CLASSES, dtype=x.dtype)[:, None].expand(CLASSES, 2, CLASSES)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            (z, adjoint), (z2, adjoint2) = linearize(net, x), linearize(nn.Sequential(net), x)
            assert_close([z, adjoint(e), adjoint(e)], [z2, adjoint2(e), adjoint2(e)])


class ScaledBlock(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class ScaledChain(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class LabelledBlock(Residual):
    """A subclass with the same forward."""

    def __init__(self, label: str) -> None:
        super().__init__(nn.Conv2d(2, 2, 1))
        self.label = label


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda layer, inputs, y: 2 * y)
    return layer


@pytest.mark.parametrize(
    ("layer", "places"),
    [
        (block(), []),
        (LabelledBlock("a"), []),
        (Residual(nn.Sequential(nn.Softmax(1), nn.Hardshrink()), nn.Sequential(nn.ReLU(), nn.LogSigmoid())), None),
        (ScaledBlock(nn.ReLU()), ["1"]),
        (hooked(block()), ["1"]),
        (Residual(hooked(nn.Conv2d(2, 2, 1))), ["1.branch"]),
    ],
)
def test_problems_are_named_by_their_place(layer: nn.Module, places: list[str] | None) -> None:
    """Without problems, the network becomes a Chain; else it stays as it is. Either way, the adjoint is exact."""
    network = nn.Sequential(nn.Conv2d(2, 2, 1), layer, nn.Flatten(), nn.Linear(32, CLASSES)).double()
    result, problems = to_chain(network)
    places = ["1.branch.0", "1.branch.1", "1.shortcut.1"] if places is None else places
    assert [problem.partition(": ")[0] for problem in problems] == places
    assert isinstance(result, Chain) if not places else result is network
    x = torch.rand(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    z, adjoint = linearize(result, x)
    e = torch.ones_like(z)
    torch.testing.assert_close(adjoint(e), *torch.autograd.grad(network(x), x, e))


def test_an_adjoint_of_another_forward_is_refused() -> None:
    """A subclass that changes forward inherits a linearize of the old one. Hooks change forward as well."""
    chain = [nn.Flatten(), nn.Linear(8, CLASSES)]
    with pytest.raises(TypeError, match="ScaledChain changes forward, but inherits linearize from Chain"):
        to_chain(ScaledChain(chain))
    with pytest.raises(TypeError, match="must have no forward hooks"):
        to_chain(hooked(Chain(chain)))
    assert find_problems(nn.Sequential(ScaledChain(chain)), "net")[0].startswith("net.0: ScaledChain changes forward")
    assert to_chain(Chain(chain))[1] == []


def test_a_nested_network_is_flattened_in_the_order_of_its_layers() -> None:
    """With names, subclasses, and a layer that is used twice. The function is the same."""
    relu = nn.ReLU()
    inner = nn.Sequential(OrderedDict(b=nn.Conv2d(2, 2, 1), a=relu))
    network = nn.Sequential(inner, nn.Sequential(nn.Sequential(relu)), nn.Flatten(), nn.Linear(8, CLASSES), relu)
    chain, problems = to_chain(network)
    assert isinstance(chain, Chain)
    assert problems == []
    assert [type(layer) for layer in chain.layers] == [nn.Conv2d, nn.ReLU, nn.ReLU, nn.Flatten, nn.Linear, nn.ReLU]
    x = torch.randn(3, 2, 2, 2)
    torch.testing.assert_close(chain(x), network(x))


@pytest.mark.parametrize("train", [True, False])
def test_a_step_on_penalties_of_a_normalized_network_reads_no_data_on_the_host(train: bool) -> None:
    """Values, adjoints and backward run on tensors without data, so a graph can capture them."""
    parts = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), block_of(4, nn.BatchNorm2d), block_of(4, nn.Identity)]
    net = Chain([*parts, nn.GroupNorm(2, 4), nn.PReLU(), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, CLASSES)])
    net.train(train).to("meta")
    x = torch.empty(2, 2, 4, 4, device="meta")
    z, adjoint = net.linearize(x)
    y = torch.empty(2, dtype=torch.long, device="meta")
    for loss in all_penalties(z, adjoint, y, torch.empty_like(x)):
        assert all(gradient.is_meta for gradient in gradients(net, loss))


def block_of(channels: int, norm: Callable[[int], nn.Module]) -> Residual:
    return Residual(nn.Sequential(nn.Conv2d(channels, channels, 1), norm(channels)), nn.Softplus())


@pytest.mark.parametrize("train", [True, False])
def test_a_normalized_network_under_autocast(train: bool) -> None:
    """In bfloat16 the adjoint agrees with that in float32 to bfloat16's precision, in logits' type as well."""
    parts = [
        nn.Conv2d(2, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        block_of(8, nn.BatchNorm2d),
        nn.GroupNorm(2, 8),
        nn.GELU(),
    ]
    net = randomize(Chain([*parts, nn.Flatten(), nn.Linear(96, CLASSES)]).train(train), "weights")
    x = torch.rand(8, *SHAPE, generator=seeding.generator(0, "x"))
    with torch.no_grad():
        z, adjoint = net.linearize(x)
        expected = adjoint(torch.ones_like(z))
        with torch.autocast("cpu", torch.bfloat16):
            z_bf16, adjoint = net.linearize(x)
            g = adjoint(torch.ones_like(z_bf16))
    assert z_bf16.dtype == torch.bfloat16
    assert (g - expected).norm() < 0.05 * expected.norm()


def test_the_jacobian_in_train_mode_is_that_of_the_whole_batch() -> None:
    """f(x) = γ·x̂ over a batch of scalars: (Jᵀe)_i = γ·r·(e_i − mean e − x̂_i·mean(e·x̂)), by hand for three images."""
    norm = nn.BatchNorm1d(1, eps=1e-300).double()
    nn.init.constant_(norm.weight, 2.0)
    x = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64).view(3, 1, 1, 1)
    z, adjoint = Chain([nn.Flatten(), norm]).linearize(x)
    mean, std = 2.0, (14 / 3) ** 0.5
    standard = [(value - mean) / std for value in (0.0, 1.0, 5.0)]
    e = [1.0, 0.0, 0.0]
    tilt = sum(a * b for a, b in zip(e, standard, strict=True)) / 3
    expected = [2 / std * (a - 1 / 3 - b * tilt) for a, b in zip(e, standard, strict=True)]
    torch.testing.assert_close(z.flatten(), 2 * torch.tensor(standard, dtype=torch.float64))
    g = adjoint(torch.tensor(e, dtype=torch.float64).view(3, 1)).flatten()
    torch.testing.assert_close(g, torch.tensor(expected, dtype=torch.float64))
    assert g[1] != 0  # image 2 changes the logit of image 1
    assert g.sum().item() == pytest.approx(0, abs=1e-15)


def test_one_linearization_changes_running_statistics_like_one_forward() -> None:
    """And its adjoint does not, however often it is called."""
    nets = [Chain([nn.BatchNorm2d(2, momentum=0.3), nn.Flatten(), nn.Linear(60, 60), nn.BatchNorm1d(60)]) for _ in "ab"]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(4, *SHAPE)
    z, adjoint = nets[0].linearize(x)
    for _ in range(3):
        penalties.magnitude(adjoint(torch.ones_like(z))).backward(retain_graph=True)
    nets[1](x)
    for ours, theirs in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert [net.layers[0].num_batches_tracked.item() for net in nets] == [1, 1]


def test_each_pair_of_layers_is_a_place_of_its_own() -> None:
    """A ReLU that is used after a block and after a Dropout works in place nowhere."""
    relu = nn.ReLU()
    chain = [nn.Conv2d(2, 2, 1), block(), relu, layers.Dropout(0.1), relu, nn.Flatten(), nn.Linear(32, CLASSES)]
    net = Chain(chain)
    assert [type(before) for before, after in pairwise(net.layers) if after is relu] == [Residual, layers.Dropout]
    assert relu.inplace is False
