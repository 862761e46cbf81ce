"""The shipped networks: builders from the images' shape (C, H, W) and the number of classes K."""

import math
from collections.abc import Callable
from typing import Literal

from torch import nn

from tune_interpreg.networks.chain import Chain, Residual
from tune_interpreg.networks.layers import Dropout

Activation = Literal["relu", "gelu", "softplus"]
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "softplus": nn.Softplus}

Norm = Literal["batch", "group"]
NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(32, channels), channels),
}


def digits_cnn(shape: tuple[int, int, int], classes: int, *, activation: Activation = "relu") -> Chain:
    """A small network for 8×8 digits, H and W ≥ 4: 3×3 convolutions of 16 and 32 channels, 64 hidden units."""
    channels, height, width = shape
    return Chain(
        [
            *(nn.Conv2d(channels, 16, 3, padding=1), *_pool(activation)),
            *(nn.Conv2d(16, 32, 3, padding=1), *_pool(activation)),
            *(nn.Flatten(), nn.Linear(_count_features(32, height // 4, width // 4), 64), ACTIVATIONS[activation]()),
            nn.Linear(64, classes),
        ]
    )


def mnist_cnn(shape: tuple[int, int, int], classes: int, *, activation: Activation = "relu") -> Chain:
    """The paper's network for MNIST: two padded 5×5 convolutions of 32 and 64 channels, 1024 hidden units.

    H and W are at least 4. activation: the paper's is relu.
    """
    channels, height, width = shape
    return Chain(
        [
            *(nn.Conv2d(channels, 32, 5, padding=2), *_pool(activation)),
            *(nn.Conv2d(32, 64, 5, padding=2), *_pool(activation)),
            *(nn.Flatten(), nn.Linear(_count_features(64, height // 4, width // 4), 1024), ACTIVATIONS[activation]()),
            *(Dropout(0.5), nn.Linear(1024, classes)),
        ]
    )


def cifar_cnn(
    shape: tuple[int, int, int], classes: int, *, fc_relu: bool = True, activation: Activation = "relu"
) -> Chain:
    """The paper's network for CIFAR-10: unpadded 3×3 convolutions of 64, 64, 128, 128 channels, then 256, 256.

    H and W are at least 16. activation: the paper's is relu. With fc_relu, it follows each hidden fully connected layer
    as well; the authors' code has none there.
    """
    phi = ACTIVATIONS[activation]
    channels, height, width = shape
    features = _count_features(128, ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2)
    return Chain(
        [
            *(nn.Conv2d(channels, 64, 3), phi(), nn.Conv2d(64, 64, 3), *_pool(activation)),
            *(nn.Conv2d(64, 128, 3), phi(), nn.Conv2d(128, 128, 3), *_pool(activation)),
            *(nn.Flatten(), nn.Linear(features, 256), *([phi()] if fc_relu else []), Dropout(0.5)),
            *(nn.Linear(256, 256), *([phi()] if fc_relu else []), Dropout(0.5)),
            nn.Linear(256, classes),
        ]
    )


def resnet18(
    shape: tuple[int, int, int], classes: int, *, norm: Norm = "batch", activation: Activation = "relu", width: int = 64
) -> Chain:
    """ResNet-18 (He et al., 2016) for small images: its first convolution is 3×3 with stride 1, without pooling.

    Eight blocks of two 3×3 convolutions, with width, 2, 4 and 8 times width channels; a 1×1 convolution on each
    shortcut that changes the size. norm: batch, or group with up to 32 groups.
    """
    if width < 1:
        raise ValueError(f"resnet18: width must be at least 1; it is {width}")
    phi, channels = ACTIVATIONS[activation], width
    layers = [_normalized_convolution(shape[0], width, 3, 1, norm), phi()]
    for stage in range(4):
        for block in range(2):
            outputs, stride = width * 2**stage, 2 if stage > 0 and block == 0 else 1
            inner = _normalized_convolution(channels, outputs, 3, stride, norm)
            branch = nn.Sequential(*inner, phi(), *_normalized_convolution(outputs, outputs, 3, 1, norm))
            changes = (channels, 1) != (outputs, stride)
            shortcut = _normalized_convolution(channels, outputs, 1, stride, norm) if changes else None
            layers += [Residual(branch, shortcut), phi()]
            channels = outputs
    return Chain([*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)])


def _normalized_convolution(inputs: int, outputs: int, kernel: int, stride: int, norm: Norm) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, NORMS[norm](outputs))


def _pool(activation: Activation) -> list[nn.Module]:
    """Return 2×2 max pooling and the activation, in the cheaper order with the values of pooling after activation.

    A nondecreasing activation commutes with a maximum, values and derivatives. GELU decreases below −0.75.
    """
    layers = [nn.MaxPool2d(2), ACTIVATIONS[activation]()]
    return layers if activation != "gelu" else layers[::-1]


def _count_features(channels: int, height: int, width: int) -> int:
    if min(height, width) < 1:
        raise ValueError(f"the images are too small for this network: its last feature map is {height}×{width}")
    return channels * height * width
