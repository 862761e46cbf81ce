"""The shipped networks: builders from the images' shape (C, H, W) and the number of classes K."""

from torch import nn

from tune_interpreg.networks.layers import Dropout
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear


def digits_cnn(shape: tuple[int, int, int], classes: int) -> PiecewiseLinear:
    """Return a small network for 8×8 digits, H and W ≥ 4: 3×3 convolutions of 16 and 32 channels, 64 hidden units."""
    channels, height, width = shape
    return PiecewiseLinear(
        [
            *(nn.Conv2d(channels, 16, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(_count_features(32, height // 4, width // 4), 64), nn.ReLU()),
            nn.Linear(64, classes),
        ]
    )


def mnist_cnn(shape: tuple[int, int, int], classes: int) -> PiecewiseLinear:
    """Return the paper's network for MNIST: two padded 5×5 convolutions of 32 and 64 channels, 1024 hidden units.

    H and W are at least 4. Max pooling comes before ReLU: the other order has the same values and derivatives, at four
    times the cost of ReLU.
    """
    channels, height, width = shape
    return PiecewiseLinear(
        [
            *(nn.Conv2d(channels, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(_count_features(64, height // 4, width // 4), 1024), nn.ReLU(), Dropout(0.5)),
            nn.Linear(1024, classes),
        ]
    )


def cifar_cnn(shape: tuple[int, int, int], classes: int, *, fc_relu: bool = True) -> PiecewiseLinear:
    """Return the paper's network for CIFAR-10: unpadded 3×3 convolutions of 64, 64, 128, 128 channels, then 256, 256.

    H and W are at least 16. With fc_relu, a ReLU follows each hidden fully connected layer; the authors' code has none.
    """
    relu = [nn.ReLU()] if fc_relu else []
    channels, height, width = shape
    features = _count_features(128, ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2)
    return PiecewiseLinear(
        [
            *(nn.Conv2d(channels, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(features, 256), *relu, Dropout(0.5)),
            *(nn.Linear(256, 256), *relu, Dropout(0.5)),
            nn.Linear(256, classes),
        ]
    )


def _count_features(channels: int, height: int, width: int) -> int:
    if min(height, width) < 1:
        raise ValueError(f"the images are too small for this network: its last feature map is {height}×{width}")
    return channels * height * width
