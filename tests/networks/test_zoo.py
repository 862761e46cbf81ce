"""ResNet-18 against torchvision's, and the options of the shipped networks."""

import math

import pytest
import torch
import torchvision
from helpers.adjoints import NETS, all_penalties, assert_close, gradients, randomize, rewind
from torch import nn

from tune_interpreg import seeding
from tune_interpreg.networks import zoo
from tune_interpreg.networks.linearize import linearize

pytestmark = pytest.mark.thorough

CLASSES = 4


def test_resnet18_is_torchvisions_with_the_stem_for_small_images() -> None:
    """11,173,962 parameters. With the same weights, logits are equal in both modes, and running statistics after."""
    ours = randomize(zoo.resnet18((3, 32, 32), 10), "weights").double()
    theirs = torchvision.models.resnet18(num_classes=10).double()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    assert sum(parameter.numel() for parameter in ours.parameters()) == 11_173_962
    theirs.double().load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 12, 12, generator=seeding.generator(0, "x"), dtype=torch.float64)
    for train in (True, False):
        torch.testing.assert_close(ours.train(train)(x), theirs.train(train)(x))
        torch.testing.assert_close(list(ours.buffers()), list(theirs.buffers()))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("norm", "activation", "width"), [("batch", "relu", 4), ("batch", "softplus", 3), ("group", "gelu", 6)]
)
def test_penalties_of_resnet18_equal_double_backpropagation(
    norm: zoo.Norm, activation: zoo.Activation, width: int, train: bool
) -> None:
    net = zoo.resnet18((3, 9, 8), CLASSES, norm=norm, activation=activation, width=width)
    randomize(net.double().train(train), "weights")
    make = seeding.generator(0, "images")
    x, target = (torch.rand(3, 3, 9, 8, generator=make, dtype=torch.float64) for _ in "xt")
    pairs = [linearize(model, x) for model in (net, nn.Sequential(net))]
    y = torch.tensor([0, 3, 1])
    for ours, theirs in zip(*(list(all_penalties(*pair, y, target)) for pair in pairs), strict=True):
        assert_close([ours, *gradients(net, ours)], [theirs, *gradients(net, theirs)])


def test_group_norm_has_up_to_32_groups_that_divide_the_channels() -> None:
    net = zoo.resnet18((3, 8, 8), CLASSES, norm="group", width=48)
    groups = {(layer.num_channels, layer.num_groups) for layer in net.modules() if isinstance(layer, nn.GroupNorm)}
    assert groups == {(48, 16), (96, 32), (192, 32), (384, 32)}
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    with pytest.raises(ValueError, match="width must be at least 1; it is 0"):
        zoo.resnet18((3, 8, 8), CLASSES, width=0)


@pytest.mark.parametrize("activation", ["gelu", "softplus"])
@pytest.mark.parametrize("name", NETS)
def test_penalties_with_smooth_activations_equal_double_backpropagation(name: str, activation: str) -> None:
    net = randomize(getattr(zoo, name)(NETS[name], CLASSES, activation=activation).double(), name)
    kinds = [type(layer) for layer in net.layers]
    assert nn.ReLU not in kinds
    assert kinds.count(type(zoo.ACTIVATIONS[activation]())) == {"cifar_cnn": 6}.get(name, 3)
    make = seeding.generator(0, "images")
    x, target = (torch.rand(2, *NETS[name], generator=make, dtype=torch.float64) for _ in "xt")
    pairs = [linearize(rewind(model), x) for model in (net, nn.Sequential(net))]
    totals = [torch.stack(list(all_penalties(*pair, torch.tensor([0, 3]), target))).sum() for pair in pairs]
    assert_close(*([total, *gradients(net, total)] for total in totals))


@pytest.mark.parametrize("activation", zoo.ACTIVATIONS)
def test_pooling_and_activation_have_the_values_of_activation_before_pooling(activation: zoo.Activation) -> None:
    """Values and derivatives, also where GELU decreases."""
    x = torch.linspace(-4, 4, 64).mul(7).sin().mul(3).view(1, 1, 8, 8).double().requires_grad_()
    ours = nn.Sequential(*zoo._pool(activation))(x)
    paper = nn.functional.max_pool2d(zoo.ACTIVATIONS[activation]()(x), 2)
    v = torch.rand(paper.shape, generator=seeding.generator(0, "v"), dtype=x.dtype)
    torch.testing.assert_close(ours, paper)
    torch.testing.assert_close(torch.autograd.grad(ours, x, v), torch.autograd.grad(paper, x, v))


def test_initialization_of_resnet18_is_pytorchs_own() -> None:
    """U(±1/√fan_in) for each convolution; scale 1, shift 0, statistics of a standard normal for each normalization."""
    net = zoo.resnet18((3, 8, 8), CLASSES, width=8)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert 0.8 * bound < layer.weight.abs().max() <= bound
        elif isinstance(layer, nn.BatchNorm2d):
            assert [(t == v).all() for t, v in ((layer.weight, 1), (layer.bias, 0), (layer.running_var, 1))]
