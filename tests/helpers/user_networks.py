"""Networks as users write them, by kind: builders for images of SHAPE and CLASSES. All of them must work.

Shapes: B batch, C·H·W image, K classes, D features.
"""

import random
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, weight_norm
from torchvision.ops import StochasticDepth

SHAPE, CLASSES = (1, 8, 8), 10
WIDTH, D = 4, 4 * 64

KINDS: dict[str, Callable[[], nn.Module]] = {}


def kind(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Register a kind of network under its function's or class's name."""
    KINDS[make.__name__] = make
    return make


class Net(nn.Module):
    """Two convolutions and a head; kinds change one thing. Not a Sequential, so it has no exact adjoint."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid = nn.Conv2d(1, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Linear(D, CLASSES)

    def features(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.mid(F.relu(self.stem(x_BCHW))))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BK: Tensor = self.head(self.features(x_BCHW).flatten(1))
        return z_BK


def sequential(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU(), *layers, nn.Flatten(), nn.Linear(D, CLASSES))


# ------------------------------------------------------------------ initial weights
@kind
def own_init() -> nn.Module:
    net = Net()
    for convolution in (net.stem, net.mid):
        nn.init.kaiming_normal_(convolution.weight)
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    return net


@kind
def pretrained() -> nn.Module:
    net = sequential()
    net.load_state_dict({name: torch.full(tensor.shape, 0.01) for name, tensor in net.state_dict().items()})
    return net


@kind
def drawn_by_numpy_and_random() -> nn.Module:
    net = Net()
    with torch.no_grad():
        net.mid.weight.copy_(torch.from_numpy(np.random.normal(0, 0.1, net.mid.weight.shape)))
        net.head.bias.fill_(random.random())
    return net


@kind
class NamedLayers(nn.Sequential):
    """A Sequential with names of its own and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("stem", nn.Conv2d(1, WIDTH, 3, padding=1))
        self.add_module("act", nn.ReLU(inplace=True))
        self.add_module("flat", nn.Flatten())
        self.add_module("head", nn.Linear(D, CLASSES))
        self.width = WIDTH


# --------------------------------------------------------------------------- ties
@kind
class TiedParameters(Net):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.again.weight = self.mid.weight

    def features(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.again(super().features(x_BCHW)))


@kind
class TiedModules(Net):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.mid

    def features(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.again(super().features(x_BCHW)))


@kind
def tied_layers_of_a_sequential() -> nn.Module:
    mid, drop = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Dropout(0.2)
    return sequential(mid, nn.ReLU(), drop, mid, nn.ReLU(), drop)


@kind
class HeadsWithOneEmbedding(nn.Module):
    """Brightness steps are embedded, weighted by the pixels; a second head reads the same table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(CLASSES, 64)
        self.heads = nn.ModuleList([nn.Linear(64, CLASSES, bias=False) for _ in range(2)])
        for head in self.heads:
            head.weight = self.table.weight
        self.scale = nn.Parameter(torch.tensor([1.0, 0.5]))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        first, second = (head(x_BCHW.flatten(1)) for head in self.heads)
        z_BK: Tensor = self.scale[0] * first + self.scale[1] * second.square()
        return z_BK


# ------------------------------------------------------------------------ buffers
class Buffered(Net):
    """A subclass names a buffer and its use."""

    def use(self, f_BCHW: Tensor) -> Tensor:
        raise NotImplementedError

    def features(self, x_BCHW: Tensor) -> Tensor:
        return self.use(super().features(x_BCHW))


@kind
class Mask(Buffered):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1, 1, 8, 8).tril())

    def use(self, f_BCHW: Tensor) -> Tensor:
        return f_BCHW * self.mask


@kind
class MaskOfBooleans(Buffered):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(8, 8) < 0.5)
        self.register_buffer("order", torch.randperm(WIDTH))

    def use(self, f_BCHW: Tensor) -> Tensor:
        return torch.where(self.mask, f_BCHW[:, self.order], 0.0)


@kind
class MaskOfInfinities(Buffered):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))

    def use(self, f_BCHW: Tensor) -> Tensor:
        return f_BCHW @ (f_BCHW[:, :1] + self.mask).softmax(-1)


@kind
class ComplexBuffer(Buffered):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("phase", torch.polar(torch.ones(8, 8), torch.rand(8, 8)))

    def use(self, f_BCHW: Tensor) -> Tensor:
        return (f_BCHW * self.phase).real


@kind
class OutsideOfTheStateDict(Buffered):
    """A random projection, which no file holds, and constants that are plain attributes, alone and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(8, 8), persistent=False)
        self.mean = torch.tensor(0.3)
        self.scales = [torch.tensor(0.5), torch.tensor(2.0)]

    def use(self, f_BCHW: Tensor) -> Tensor:
        return (f_BCHW - self.mean) @ self.projection * self.scales[0] * self.scales[1]


@kind
def batch_norm() -> nn.Module:
    return sequential(nn.BatchNorm2d(WIDTH), nn.ReLU())


@kind
def synchronized_batch_norm() -> nn.Module:
    """Without a process group, it is ordinary batch normalization."""
    return sequential(nn.SyncBatchNorm(WIDTH), nn.ReLU())


@kind
class OwnBatchNorm(Buffered):
    """It replaces its buffer instead of changing it in place, and counts its steps in an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(1, WIDTH, 1, 1))
        self.register_buffer("steps", torch.tensor(0))

    def use(self, f_BCHW: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.average = 0.9 * self.average + 0.1 * f_BCHW.mean((0, 2, 3), keepdim=True)
                self.steps += 1
        return f_BCHW - self.average


# ------------------------------------------------------------------------ parameters
@kind
def frozen() -> nn.Module:
    net = Net()
    net.stem.requires_grad_(False)
    return net


@kind
def channels_last() -> nn.Module:
    return sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()).to(memory_format=torch.channels_last)


@kind
def transposed() -> nn.Module:
    net = Net()
    net.head.weight = nn.Parameter(net.head.weight.detach().t().contiguous().t())
    assert not net.head.weight.is_contiguous()
    return net


@kind
def weight_normalized() -> nn.Module:
    net = Net()
    net.mid = parametrizations.weight_norm(net.mid)
    return net


@kind
def weight_normalized_by_a_hook() -> nn.Module:
    """By the deprecated function, which many networks still use."""
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        net.mid = weight_norm(net.mid)
    return net


@kind
def spectrally_normalized() -> nn.Module:
    net = Net()
    net.mid = parametrizations.spectral_norm(net.mid)
    return net


@kind
def orthogonal() -> nn.Module:
    net = Net()
    net.head = parametrizations.orthogonal(net.head)
    return net


@kind
def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(WIDTH, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES))


@kind
class Lists(nn.Module):
    """Parameters in a ParameterList and a ParameterDict, and a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList([nn.Parameter(torch.randn(64, CLASSES) / 8) for _ in range(2)])
        self.dict = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(CLASSES))})
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BD = x_BCHW.flatten(1)
        return self.scale * (x_BD @ self.list[0]) * (x_BD @ self.list[1]) + self.dict["bias"]


@kind
class Attention(nn.Module):
    """Rows of pixels attend to each other; LayerNorm and RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.rms = nn.LayerNorm(8), nn.RMSNorm(64)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHW = self.norm(x_BCHW.squeeze(1))
        z_BK: Tensor = self.head(self.rms((x_BHW + self.attention(x_BHW, x_BHW, x_BHW)[0]).flatten(1)))
        return z_BK


@kind
def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    rows, encoder = nn.Flatten(1, 2), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(rows, encoder, nn.Flatten(), nn.Linear(64, CLASSES))


@kind
def group_norm() -> nn.Module:
    return sequential(nn.GroupNorm(2, WIDTH), nn.InstanceNorm2d(WIDTH, affine=True), nn.GELU())


@kind
def batch_norm_of_features() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


@kind
def graph_module() -> nn.Module:
    return fx.symbolic_trace(Net())


@kind
class DrawsFromGlobalGenerators(Net):
    """Functional dropout, layers that draw from torch's generator, and a depth that NumPy and ``random`` draw."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.RReLU(), nn.AlphaDropout(0.1), StochasticDepth(0.3, "row"))

    def features(self, x_BCHW: Tensor) -> Tensor:
        f_BCHW: Tensor = self.layers(super().features(F.dropout(x_BCHW, 0.2, training=self.training)))
        if self.training:
            return f_BCHW * (0.5 + random.random()) * (0.5 + np.random.rand())
        return f_BCHW


@kind
class DropoutWithAttributes(Net):
    """Dropout in a plain list as well, with a hook and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.drop.label = "main"
        self.drops = [self.drop]
        self.drop.register_forward_hook(lambda layer, inputs, output: 2 * output)

    def features(self, x_BCHW: Tensor) -> Tensor:
        f_BCHW: Tensor = self.drops[0](super().features(x_BCHW))
        return f_BCHW
