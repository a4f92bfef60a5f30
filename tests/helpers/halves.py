"""Nets of the plane whose decision boundary is known."""

import torch
from torch import nn

from experiments.toy.ensemble import Ensemble


def nets_of_halves() -> Ensemble:
    """Two members without a hidden layer: class 1 lies right of x = 0, or above y = 1."""
    nets = [nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))]
    with torch.no_grad():
        for net in nets:
            net[0].weight.zero_()
            net[0].bias.zero_()
        nets[0][0].weight[1, 0] = 3.0
        nets[1][0].weight[1, 1] = 2.0
        nets[1][0].bias[1] = -2.0
    return Ensemble(nets)
