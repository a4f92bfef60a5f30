"""The toy's network: five fully connected layers, four of them normalized."""

from collections.abc import Callable

from torch import nn


class SpiralNet(nn.Sequential):
    """Five fully connected layers; each of the first four is followed by normalization and ReLU.

    Args:
        width: Units of the hidden layers.
        norm: Makes a normalization layer for a number of units.
        dropout: Rate of the dropout behind each ReLU; 0 for none.

    Shape:
        Points [N, 2] to class logits [N, 2].
    """

    def __init__(
        self,
        width: int = 64,
        norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = []
        inputs = 2
        for _ in range(4):
            layers += [nn.Linear(inputs, width), norm(width), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, 2))
