"""Networks that cannot be trained, attacked, saved or repeated are refused before training, with what to change.

Shapes: B batch, C·H·W image, K classes.
"""

import itertools
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.user_networks import CLASSES, SHAPE, Buffered, Net, sequential
from torch import Tensor, nn

from tune_interpreg import registry, seeding
from tune_interpreg.networks import layers
from tune_interpreg.networks.build import build
from tune_interpreg.networks.vetting import NetworkError
from tune_interpreg.study.config import Model

#: Builders of networks that are refused, each with words of the message.
REFUSED: dict[str, tuple[Callable[[], object], str]] = {}


def refused(words: str) -> Callable[[Any], Any]:
    """Register a builder under its name."""

    def register(make: Any) -> Any:
        REFUSED[make.__name__] = make, words
        return make

    return register


def with_forward(change: Callable[[nn.Module, Tensor], Any]) -> Callable[[], nn.Module]:
    """Return a builder of a Net with this forward."""

    class Changed(Net):
        def forward(self, x_BCHW: Tensor) -> Any:
            return change(self, x_BCHW)

    return Changed


def logits(net: nn.Module, x_BCHW: Tensor) -> Tensor:
    z_BK: Tensor = Net.forward(net, x_BCHW)  # type: ignore[arg-type]
    return z_BK


def scaled(net: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(factor)
    return net


# ------------------------------------------------------------------- kinds of modules
@refused(r"is compiled: .*without torch\.compile")
def compiled() -> object:
    return torch.compile(Net())


@refused("is compiled")
def compiled_in_place() -> object:
    net = Net()
    net.head.compile()
    return net


@refused("TorchScript")
def scripted() -> object:
    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)))


@refused(r"DataParallel.*\.module")
def parallel() -> object:
    return nn.DataParallel(Net())


@refused("is of type function; its builder must return a torch.nn.Module")
def not_a_module() -> object:
    return lambda x: x


# ------------------------------------------------------------------------ parameters
@refused("no parameter that requires a gradient")
def all_frozen() -> object:
    return Net().requires_grad_(False)


@refused(r"stem\.weight \(torch\.float64\).*network\.float\(\)")
def doubles() -> object:
    return Net().double()


@refused(r"torch\.float16")
def halves() -> object:
    return Net().half()


@refused("no values in stem.weight.*meta device")
def without_values() -> object:
    with torch.device("meta"):
        return Net()


@refused(r"does not train layers\.scale.*torch\.nn\.Parameter")
def forgotten_parameter() -> object:
    net = nn.Module()
    net.layers = Net()
    net.layers.scale = torch.ones(1, requires_grad=True)
    net.forward = net.layers.forward
    return net


@refused("head.weight, a part of a larger tensor")
def every_second_column() -> object:
    net = Net()
    net.head.weight = nn.Parameter(torch.randn(CLASSES, 2 * 256)[:, ::2])
    return net


@refused("head.bias, a part of a larger tensor")
def expanded() -> object:
    net = Net()
    net.head.bias = nn.Parameter(torch.zeros(1).expand(CLASSES))
    return net


# ------------------------------------------------------------------------- repetition
@refused("head.bias differ; draw from the global generators")
def unseeded() -> object:
    net = Net()
    nn.init.constant_(net.head.bias, random.Random().random())
    return net


STEM = nn.Conv2d(1, 4, 3, padding=1)


@refused("shares stem.weight, stem.bias among")
def shared_by_all() -> object:
    net = Net()
    net.stem = STEM
    return net


NORM = nn.BatchNorm2d(4).requires_grad_(False)


@refused("shares 2.running_mean, 2.running_var")
def shared_statistics() -> object:
    return sequential(NORM, nn.Tanh())


def _kinds_of_forwards() -> None:
    forwards: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
        "draws in eval mode": (lambda net, x: logits(net, F.dropout(x)), "global random generator in eval mode"),
        "draws of numpy": (lambda net, x: logits(net, x) * (1 + np.random.rand()), "global random generator in eval"),
        "draws of random": (lambda net, x: logits(net, x * random.random()), "global random generator in eval"),
        # images
        "in place": (
            lambda net, x: logits(net, x.sub_(0.3).div_(0.35)),
            "changes the images that it is given, in train",
        ),
        "in place in eval mode": (lambda net, x: logits(net, x if net.training else x.neg_()), "images.*in eval mode"),
        "in place ReLU": (
            lambda net, x: logits(net, F.relu(x, inplace=True)),
            r"RuntimeError: a leaf Variable .*\.py:\d+",
        ),
        # results
        "tuple": (lambda net, x: (logits(net, x), None), "returns tuple; return the tensor of logits in it"),
        "dict": (lambda net, x: {"logits": logits(net, x)}, "returns dict"),
        "other classes": (lambda net, x: logits(net, x)[:, 1:], r"shape \(4, 10\) .* \(4, 9\)"),
        "pixels": (lambda net, x: logits(net, x)[..., None, None], r"\(4, 10, 1, 1\)"),
        "doubles": (lambda net, x: logits(net, x).double(), r"torch\.float64 of shape \(4, 10\)"),
        "labels": (lambda net, x: logits(net, x).argmax(-1), "torch.int64"),
        "squeezed": (lambda net, x: logits(net, x).squeeze(), r"shape \(1, 10\) .* of shape \(10,\)"),
        "log_softmax": (lambda net, x: logits(net, x).log_softmax(-1), "result of a log_softmax"),
        "softmax": (lambda net, x: logits(net, x).softmax(-1), "result of a softmax"),
        "nan": (lambda net, x: logits(net, x) / 0, "finite logits; those of 4 of 4"),
        # gradients
        "no_grad": (torch.no_grad()(logits), "no gradient to any of its parameters"),
        "detached images": (lambda net, x: logits(net, x.detach()), "no gradient to the images in train mode"),
        "numpy": (lambda net, x: logits(net, torch.from_numpy(x.detach().numpy())), "no gradient to the images"),
        "detached in eval mode": (lambda net, x: logits(net, x if net.training else x.data), "images in eval mode"),
        "rounded": (lambda net, x: logits(net, (4 * x).round()), "gradient of 0 at all of 4 images"),
        "root": (lambda net, x: logits(net, (x - x).sqrt() + x), "nan or infinite"),
        # batches and state
        "statistics of the batch": (lambda net, x: logits(net, x - x.mean(0)), "for an image alone than in a batch"),
        "relative to the first": (lambda net, x: logits(net, x) - logits(net, x[:1]) / 9, "alone than in a batch"),
    }
    for name, (forward, words) in forwards.items():
        REFUSED[name] = with_forward(forward), words


_kinds_of_forwards()


@refused("for an image alone than in a batch.*GroupNorm")
def batch_norm_without_statistics() -> object:
    return sequential(nn.BatchNorm2d(4, track_running_stats=False))


@refused("runs again in eval mode")
class Counting(Net):
    calls = 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.calls += not self.training
        return super().forward(x_BCHW) * (1 + 0.1 * self.calls)


@refused("after it was saved and loaded.*persistent=True")
class Average(Buffered):
    """Its running average is in no file."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(1, 4, 1, 1), persistent=False)

    def use(self, f_BCHW: Tensor) -> Tensor:
        if self.training:
            self.average.lerp_(f_BCHW.detach().mean((0, 2, 3), keepdim=True), 0.5)
        return f_BCHW - self.average


@refused("after it was saved and loaded")
class PlainAverage(Buffered):
    """Its running average is a plain attribute."""

    average = torch.tensor(0.0)

    def use(self, f_BCHW: Tensor) -> Tensor:
        if self.training:
            self.average = 0.5 * self.average + f_BCHW.detach().mean()
        return f_BCHW - self.average


@refused("in train mode than a new one with the same parameters and buffers")
class WarmsUp(Buffered):
    """Its noise schedule counts in Python, in train mode only."""

    calls = 0

    def use(self, f_BCHW: Tensor) -> Tensor:
        self.calls += self.training
        return f_BCHW * (1 + 0.1 * self.calls) if self.training else f_BCHW


@refused(r"cannot be saved and loaded \(state_dict\(\) holds .*_extra_state")
class ExtraState(Net):
    def get_extra_state(self) -> dict[str, int]:
        return {"epoch": 1}

    def set_extra_state(self, state: object) -> None:
        pass


@refused("cannot be saved and loaded .* no tensor a part of another")
class Overlapping(Net):
    """Two parameters are overlapping parts of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(15)
        self.first, self.second = nn.Parameter(flat[:10]), nn.Parameter(flat[5:])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW) + self.first * self.second


@refused("linearize with other Jᵀe than its forward")
class WrongAdjoint(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, CLASSES))

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, layers.Adjoint]:
        return self(x_BCHW), lambda e: 2 * (e @ self[1].weight).unflatten(-1, SHAPE)


@refused(r"AssertionError: colour images only \(.*test_vetting\.py:\d+\)")
def asserts() -> object:
    raise AssertionError("colour images only")


@refused(r"KeyError: 'weights' \(.*test_vetting\.py:\d+\)")
def key_error() -> object:
    return {}["weights"]


@refused(r"mat1 and mat2 shapes cannot be multiplied \(4x64 and 63x10\)")
def other_size() -> object:
    return nn.Sequential(nn.Flatten(), nn.Linear(63, CLASSES))


COUNT = itertools.count()


def refusal(make: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> NetworkError:
    monkeypatch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: make())
    with pytest.raises(NetworkError) as raised:
        build(Model(name=f"refused {next(COUNT)}"), SHAPE, CLASSES, 0)
    return raised.value


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_it_is_refused_with_its_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with all global generators as before."""
    make, words = REFUSED[name]
    before = seeding.read_global_state()
    error = refusal(make, monkeypatch)
    assert error.args[0].startswith("refused ")
    assert re.search(words, str(error)), str(error)
    assert "\n" not in str(error)
    assert seeding.read_global_state() == before


def test_the_cause_of_a_refusal_is_the_users_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--debug`` shows it."""
    assert isinstance(refusal(asserts, monkeypatch).__cause__, AssertionError)
    assert refusal(all_frozen, monkeypatch).__cause__ is None


def test_a_wrong_option_is_the_builders_type_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "resolve", lambda group, name: lambda shape, classes, *, width: Net())
    with pytest.raises(NetworkError, match=r"TypeError: .* unexpected keyword argument 'depth'"):
        build(Model.model_validate({"name": "options", "depth": 3}), SHAPE, CLASSES, 0)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 30.0])
def test_rounding_is_no_dependence_on_the_batch(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks with small and with large logits pass; kernels of other batch sizes round differently."""
    make = lambda: scaled(sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)), factor)  # noqa: E731
    monkeypatch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: make())
    build(Model(name=f"rounding {factor}"), SHAPE, CLASSES, 0)


def test_checking_changes_no_statistics_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: sequential(nn.BatchNorm2d(4)))
    net = build(Model(name="statistics"), SHAPE, CLASSES, 0)
    assert [int(buffer) for name, buffer in net.named_buffers() if name.endswith("tracked")] == [0]
    assert net.training
