"""Nets of one architecture side by side, trained and evaluated as one.

The linear layers of all members are one batched product, and their normalization layers are one
layer with all their channels, whose statistics are per channel anyway: so it is ubnlib's own layer
that runs, and a member's numbers are those it would have alone, up to rounding.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Layers that treat each number by itself, and so need not know whose it is.
POINTWISE = (
    nn.Identity, nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus,
    nn.Sigmoid, nn.Tanh,
)  # fmt: skip


class Ensemble(nn.Module):
    """Side-by-side copies of nets made of linear, batch normalization and pointwise layers.

    [N, E, inputs] to [N, E, outputs], for E members of the same layers. Dropout draws anew for each
    member, from torch's generator.
    """

    def __init__(self, nets: Sequence[nn.Sequential]) -> None:
        super().__init__()
        _check(nets)
        self.members = len(nets)
        self.layers = nn.Sequential(*map(_side_by_side, zip(*nets, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        """Give each member its own rows."""
        return self.layers(x.flatten(1)).unflatten(1, (self.members, -1))

    def normalized_features(self, x: Tensor) -> list[Tensor]:
        """Return what each normalization gives at x [N, E, inputs]: [N, E, channels] a layer."""
        features, x = [], x.flatten(1)
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm1d):
                features.append(x.unflatten(1, (self.members, -1)))
        return features

    def member(self, index: int, template: nn.Sequential) -> nn.Sequential:
        """Return a net by itself: a copy of `template`, with this member's numbers."""
        net = copy.deepcopy(template)
        with torch.no_grad():
            for layer, ours in zip(net, self.layers, strict=True):
                for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
                    source = getattr(ours, name)
                    if value.dim():  # all but the number of batches seen
                        source = source.reshape(self.members, *value.shape)[index]
                    value.copy_(source)
        return net


class GroupedLinear(nn.Module):
    """One linear layer a member: [N, E * inputs] to [N, E * outputs]."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each member's rows by its own weights."""
        rows = x.unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        return (torch.bmm(rows, self.weight.mT).transpose(0, 1) + self.bias).flatten(1)


def _check(nets: Sequence[nn.Sequential]) -> None:
    """Refuse nets that cannot stand side by side."""
    if not nets:
        raise ValueError("An ensemble of no nets cannot be made: give at least one net.")
    for index, net in enumerate(nets):
        if [repr(layer) for layer in net] != [repr(layer) for layer in nets[0]]:
            raise ValueError(
                f"Net {index} has other layers than net 0: the nets of an ensemble must be of one "
                "architecture, with the same settings."
            )
    for index, layer in enumerate(nets[0]):
        linear = isinstance(layer, nn.Linear) and layer.bias is not None
        if not linear and not isinstance(layer, (nn.BatchNorm1d, *POINTWISE)):
            raise ValueError(
                f"Layer {index} is {layer}: an ensemble takes nn.Linear with a bias, "
                f"nn.BatchNorm1d, and {', '.join(kind.__name__ for kind in POINTWISE)}."
            )


def _side_by_side(layers: tuple[nn.Module, ...]) -> nn.Module:
    """Return one layer that does what each of some layers of a kind does for its member."""
    first = layers[0]
    if isinstance(first, nn.Linear):
        return GroupedLinear(layers)
    if not isinstance(first, nn.BatchNorm1d):
        return copy.deepcopy(first)
    together = copy.deepcopy(first)
    together.num_features = sum(layer.num_features for layer in layers)
    for name, value in [*first.named_parameters(), *first.named_buffers()]:
        if value.dim():
            joined = torch.cat([getattr(layer, name).detach() for layer in layers])
            setattr(together, name, nn.Parameter(joined) if name in first._parameters else joined)
    return together
